"""Twenty kinds of surface in ten pairs of similar ones: each a field of heights over the plane, in units of its grain.

A pattern takes what it draws from and the places u and v (arrays of one shape, about one feature to a unit), and gives
numbers of which 0 to 1 runs from the darker to the lighter colour.
"""

from __future__ import annotations

from collections.abc import Callable
from math import pi

import numpy as np

from glora.data.made.draws import Draw, Floats
from glora.data.made.noise import Noise, cells, smooth_step

__all__ = ["PATTERNS", "Pattern"]

Pattern = Callable[[Draw, Floats, Floats], Floats]


def stripes(draw: Draw, u: Floats, v: Floats) -> Floats:
    """Straight parallel stripes."""
    wide = draw.uniform(-0.4, 0.4)
    wave = np.sin(2 * pi * u) + wide
    return np.asarray(smooth_step(-0.9, 0.9, wave * draw.ratio(0.9, 4.0)))


def waves(draw: Draw, u: Floats, v: Floats) -> Floats:
    """Parallel stripes that all wind alike."""
    bend, long = draw.uniform(0.25, 0.6), draw.uniform(2.0, 4.5)
    wide = draw.uniform(-0.4, 0.4)
    wave = np.sin(2 * pi * (u + bend * np.sin(2 * pi * v / long))) + wide
    return np.asarray(smooth_step(-0.9, 0.9, wave * draw.ratio(0.9, 4.0)))


def checks(draw: Draw, u: Floats, v: Floats) -> Floats:
    """A chess board."""
    sharp = draw.ratio(1.5, 8.0)
    return np.asarray(smooth_step(-0.7, 0.7, sharp * np.sin(pi * u) * np.sin(pi * v)))


def gingham(draw: Draw, u: Floats, v: Floats) -> Floats:
    """Bands both ways, darkest where they cross, half dark elsewhere on them."""
    sharp, share = draw.ratio(1.5, 6.0), draw.uniform(0.4, 0.6)
    along = smooth_step(-0.7, 0.7, sharp * (np.sin(pi * u) + 0.5 - share))
    across = smooth_step(-0.7, 0.7, sharp * (np.sin(pi * v) + 0.5 - share))
    return np.asarray(share * along + (1 - share) * across)


def _courses(draw: Draw, u: Floats, v: Floats, shift: float) -> Floats:
    """Blocks in rows with joints between them, each row shifted by a share of a block against the one before."""
    long, joint = draw.uniform(1.5, 2.3), draw.uniform(0.05, 0.11)
    row = np.floor(v)
    x = u / long + shift * row
    column = np.floor(x)
    tints = draw.uniforms(64, 64)[row.astype(np.int64) % 64, column.astype(np.int64) % 64]
    inner = np.minimum(np.minimum(x - column, column + 1 - x) * long, np.minimum(v - row, row + 1 - v))
    rough = Noise(draw).octaves(u * 3, v * 3, 3, 0.6)
    block = 0.55 + 0.4 * (tints - 0.5) * draw.uniform(0.3, 1.6) + 0.12 * rough
    return np.asarray(block * smooth_step(joint * 0.6, joint * 1.4, inner))


def bricks(draw: Draw, u: Floats, v: Floats) -> Floats:
    """Blocks in rows, each row shifted by about half a block."""
    return _courses(draw, u, v, draw.uniform(0.4, 0.6))


def tiles(draw: Draw, u: Floats, v: Floats) -> Floats:
    """Blocks in rows and columns."""
    return _courses(draw, u, v, 0.0)


def cell_walls(draw: Draw, u: Floats, v: Floats) -> Floats:
    """Cells of one tone with straight walls of even width between them."""
    found = cells(draw, u, v, draw.uniform(0.7, 1.0))
    wall = draw.uniform(0.06, 0.14)
    return np.asarray(0.25 + 0.5 * smooth_step(wall * 0.7, wall * 1.5, found.second - found.first))


def cracks(draw: Draw, u: Floats, v: Floats) -> Floats:
    """Crooked cracks of uneven width, which end here and there."""
    noise = Noise(draw)
    shift = draw.uniform(0.25, 0.4)
    bent_u = u + shift * noise.octaves(u * 1.7, v * 1.7, 3, 0.6)
    bent_v = v + shift * noise.octaves(u * 1.7 + 31.3, v * 1.7 + 11.9, 3, 0.6)
    found = cells(draw, bent_u, bent_v, draw.uniform(0.7, 1.0))
    wide = draw.uniform(0.06, 0.14) * smooth_step(-0.5, 0.5, noise(u * 0.7 + 7.7, v * 0.7 + 3.1))
    gap = found.second - found.first
    return np.asarray(0.25 + 0.5 * smooth_step(-0.02, 0.06, gap - wide))


def scales(draw: Draw, u: Floats, v: Floats) -> Floats:
    """Round scales in rows, each row over the one below it and shifted by half a scale."""
    u, v = 0.8 * u, 0.8 * v
    rise = draw.uniform(0.45, 0.6)
    height = np.full(u.shape, np.inf)
    depth = np.zeros(u.shape)
    base = np.floor(v / rise)
    for step in (1, 0, -1, -2):
        row = base + step
        x = u + 0.5 * (row % 2)
        across, down = x - np.floor(x) - 0.5, v - row * rise
        radius = np.sqrt(across * across + down * down)
        on = (radius < 0.62) & (down < 0.62)
        # the rows are laid from the top of the picture down, so that the last one lies on all others
        height, depth = np.where(on, radius, height), np.where(on, down, depth)
    rim = smooth_step(0.62, 0.52, height)
    return np.asarray(rim * (0.7 + draw.uniform(0.4, 1.2) * (depth - 0.3)))


def pebbles(draw: Draw, u: Floats, v: Floats) -> Floats:
    """Round stones of many tones, each bright on one side, close together."""
    found = cells(draw, u, v, draw.uniform(0.5, 0.8))
    edge = smooth_step(0.02, 0.3, found.second - found.first)
    side = draw.uniform(0.2, 0.8)
    tone = 0.45 + draw.uniform(0.1, 0.5) * (found.tint - 0.5)
    return np.asarray(edge * (tone + side * found.v + 0.3 * (0.5 - found.first)))


def wood(draw: Draw, u: Floats, v: Floats) -> Floats:
    """Rings of wood cut lengthwise, dark on one side, with fine fibres along them."""
    noise = Noise(draw)
    rings = 1.3 * u + draw.uniform(0.5, 1.2) * noise.octaves(u * 0.35, v * 0.09, 2, 0.5)
    saw = rings - np.floor(rings)
    fibre = noise.octaves(u * 6, v * 0.5, 2, 0.7)
    return np.asarray(0.15 + 0.7 * saw * smooth_step(1.0, 0.85, saw) + draw.uniform(0.08, 0.2) * fibre)


def marble(draw: Draw, u: Floats, v: Floats) -> Floats:
    """Veins that start as stripes and are stirred."""
    noise = Noise(draw)
    stir = draw.uniform(0.8, 1.5) * noise.octaves(u * 0.5, v * 0.35, 4, 0.55)
    vein = 1 - np.abs(np.sin(pi * (u * 0.7 + stir)))
    return np.asarray(0.85 - 0.75 * vein * vein + 0.08 * noise.octaves(u * 2, v * 2, 3, 0.6))


def clouds(draw: Draw, u: Floats, v: Floats) -> Floats:
    """Noise whose fine parts are weak."""
    return 0.5 + 0.45 * Noise(draw).octaves(u * 0.5, v * 0.5, 5, draw.uniform(0.4, 0.52))


def plaster(draw: Draw, u: Floats, v: Floats) -> Floats:
    """Noise whose fine parts are about as strong as its coarse ones."""
    return 0.5 + 0.45 * Noise(draw).octaves(u * 0.5, v * 0.5, 5, draw.uniform(0.68, 0.85))


def _discs(draw: Draw, u: Floats, v: Floats, scatter: float, uneven: float) -> Floats:
    found = cells(draw, u, v, scatter)
    radius = draw.uniform(0.24, 0.34) * (1 + uneven * (found.tint - 0.5))
    return 0.2 + 0.6 * smooth_step(-0.05, 0.05, radius - found.first)


def dots(draw: Draw, u: Floats, v: Floats) -> Floats:
    """Discs of one size on a lattice, or nearly so."""
    return _discs(draw, u, v, draw.uniform(0.0, 0.15), 0.15)


def spots(draw: Draw, u: Floats, v: Floats) -> Floats:
    """Discs of many sizes, scattered."""
    return _discs(draw, u, v, draw.uniform(0.45, 0.8), 0.9)


def weave(draw: Draw, u: Floats, v: Floats) -> Floats:
    """Bands over and under each other in turn."""
    return _bands(draw, u, v, 2, 1)


def twill(draw: Draw, u: Floats, v: Floats) -> Floats:
    """Bands over two and under two, each row shifted by one, so that slanting ridges show."""
    return _bands(draw, u, v, 4, 2)


def _bands(draw: Draw, u: Floats, v: Floats, repeat: int, over: int) -> Floats:
    """Crossing bands; in row j the band along u is on top at ``over`` of ``repeat`` crossings."""
    u, v = 1.3 * u, 1.3 * v
    i, j = np.floor(u), np.floor(v)
    x, y = u - i - 0.5, v - j - 0.5
    top = (i + j) % repeat < over
    across, along = np.where(top, y, x), np.where(top, x, y)
    side = 1 - (2 * across) ** 2
    bow = draw.uniform(0.1, 0.4)
    tone = np.where(top, 0.5 + draw.uniform(0.0, 0.2), 0.5 - draw.uniform(0.0, 0.2))
    return np.asarray((tone - bow * (2 * along) ** 2 * 0.6) * smooth_step(-0.05, 0.6, side) + 0.1)


def grains(draw: Draw, u: Floats, v: Floats) -> Floats:
    """Fine specks, as long as they are wide."""
    speck = Noise(draw).octaves(u * 2.2, v * 2.2, 2, 0.6)
    return 0.5 + 0.4 * np.clip(speck * draw.uniform(1.0, 2.0), -1, 1)


def fibres(draw: Draw, u: Floats, v: Floats) -> Floats:
    """Fine specks drawn out in one direction."""
    long = draw.uniform(2.5, 6.0)
    speck = Noise(draw).octaves(u * 2.8, v * 2.8 / long, 2, 0.6)
    return 0.5 + 0.4 * np.clip(speck * draw.uniform(1.0, 2.0), -1, 1)


PATTERNS: dict[str, Pattern] = {
    "stripes": stripes,
    "waves": waves,
    "checks": checks,
    "gingham": gingham,
    "bricks": bricks,
    "tiles": tiles,
    "cells": cell_walls,
    "cracks": cracks,
    "scales": scales,
    "pebbles": pebbles,
    "wood": wood,
    "marble": marble,
    "clouds": clouds,
    "plaster": plaster,
    "dots": dots,
    "spots": spots,
    "weave": weave,
    "twill": twill,
    "grains": grains,
    "fibres": fibres,
}
"""By name; each even one and the next are alike."""
