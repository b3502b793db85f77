"""Textures of twenty kinds in random size, direction, colour, contrast, light and noise."""

from __future__ import annotations

from math import cos, pi, sin
from typing import final

import numpy as np

from glora.data.made.draws import Draw, Floats, Pixels, balanced_label
from glora.data.made.noise import Noise
from glora.data.made.patterns import PATTERNS, Pattern
from glora.data.made.sets import MadeSet

__all__ = ["TexturesSet", "draw_texture"]

SIDE = 96
# Pixels to a unit of a pattern, from the smallest to the largest.
_GRAIN = (8.0, 24.0)
_FINE = 2


def draw_texture(draw: Draw, pattern: Pattern) -> Pixels:
    """A picture of one pattern, uint8 (96, 96, 3)."""
    u, v = _places(draw)
    height = pattern(draw, u, v)
    height = height.reshape(SIDE, _FINE, SIDE, _FINE).mean((1, 3))
    dark, light = _colours(draw)
    picture = dark + (light - dark) * height[:, :, None]
    picture = picture * _lighting(draw)[:, :, None]
    picture = picture + draw.uniform(0.01, 0.07) * draw.normals(SIDE, SIDE, 1)
    picture = picture + draw.uniform(0.0, 0.03) * draw.normals(SIDE, SIDE, 3)
    return np.asarray(np.rint(255 * np.clip(picture, 0, 1)), dtype=np.uint8)


def _places(draw: Draw) -> tuple[Floats, Floats]:
    """Where the samples of the picture lie on the pattern: turned, stretched and bent, (192, 192) each."""
    count = _FINE * SIDE
    steps = ((2 * np.arange(count) + 1) / count - 1) * SIDE / 2
    x, y = np.meshgrid(steps, steps)
    grain, stretch = draw.ratio(*_GRAIN), draw.ratio(0.85, 1.18)
    angle = draw.uniform(0.0, 2 * pi)
    u = (cos(angle) * x + sin(angle) * y) / (grain * stretch) + draw.uniform(0.0, 64.0)
    v = (cos(angle) * y - sin(angle) * x) * stretch / grain + draw.uniform(0.0, 64.0)
    bend, noise = draw.uniform(0.0, 0.25), Noise(draw)
    return u + bend * noise(u * 0.4, v * 0.4), v + bend * noise(u * 0.4 + 23.7, v * 0.4 + 41.3)


def _colours(draw: Draw) -> tuple[Floats, Floats]:
    """Two colours, (3,) each, the first mostly darker; their difference is the contrast."""
    base = 0.2 + 0.6 * draw.uniforms(3)
    base = base.mean() + draw.uniform(0.2, 1.0) * (base - base.mean())
    contrast = draw.ratio(0.18, 0.7)
    tilt = 0.5 * (draw.uniforms(3) - 0.5)
    change = contrast * (1 + tilt) * (1 if draw.uniform() < 0.7 else -1)
    return base - change / 2, base + change / 2


def _lighting(draw: Draw) -> Floats:
    """Light that falls off to one side, (96, 96), about 1."""
    steps = (2 * np.arange(SIDE) + 1) / SIDE - 1
    angle, fall = draw.uniform(0.0, 2 * pi), draw.uniform(0.0, 0.25)
    return np.asarray(1 + fall * (cos(angle) * steps[None, :] + sin(angle) * steps[:, None]))


@final
class TexturesSet(MadeSet):
    """What kind of surface is seen."""

    name = "textures"
    classes = tuple(PATTERNS)
    label = "kind of surface, 20 in 10 pairs of similar ones"

    def sample(self, seed: int, split: str, index: int) -> tuple[Pixels, int]:
        """One image, uint8 (96, 96, 3), and its label."""
        label = balanced_label(seed, self.name, split, index, len(self.classes))
        return draw_texture(Draw(seed, self.name, split, index), PATTERNS[self.classes[label]]), label
