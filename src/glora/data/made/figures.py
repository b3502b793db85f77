"""Five families of toys built from solids: car, truck, aeroplane, animal and person, each with a front and a back.

All look along +x and stand on z = 0; left and right are mirror images, front and back are not. Lengths are free, since
``normalised`` brings every toy to one size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import pi
from typing import final

import numpy as np

from glora.data.made.draws import Draw, Floats
from glora.data.made.solids import Box, Cylinder, Ellipsoid, Solid, rotation

__all__ = ["FAMILIES", "Toy"]

Vector = tuple[float, float, float]


@final
@dataclass
class Toy:
    """Parts and their tones.

    Attributes:
        solids: the parts.
        tones: share of the light that each part scatters, relative to the toy's own.
    """

    solids: list[Solid] = field(default_factory=list)
    tones: list[float] = field(default_factory=list)

    def add(
        self, kind: Callable[..., Solid], centre: Vector, half: Vector, turn: Floats | None = None, tone: float = 1.0
    ) -> None:
        """Add a part."""
        self.solids.append(kind(centre, half, turn))
        self.tones.append(tone)

    def pair(
        self, kind: Callable[..., Solid], centre: Vector, half: Vector, turn: Floats | None = None, tone: float = 1.0
    ) -> None:
        """Add a part on the left and its mirror image on the right."""
        self.add(kind, centre, half, turn, tone)
        mirror = np.diag([1.0, -1.0, 1.0])
        turned = None if turn is None else mirror @ turn @ mirror
        self.add(kind, (centre[0], -centre[1], centre[2]), half, turned, tone)

    def normalised(self) -> Toy:
        """The same toy on the plane z = 0, in the smallest sphere of radius 1 about the middle of its extents."""
        corners = np.concatenate([solid.corners() for solid in self.solids], axis=1)
        low, high = corners.min(1), corners.max(1)
        middle = (low + high) / 2
        reach = float(np.sqrt(((corners - middle[:, None]) ** 2).sum(0)).max())
        foot = np.array([middle[0], middle[1], low[2]])
        solids = [type(part)((part.centre - foot) / reach, part.half / reach, part.turn) for part in self.solids]
        return Toy(solids, list(self.tones))

    @property
    def middle(self) -> Floats:
        """Middle of the extents, (3,)."""
        corners = np.concatenate([solid.corners() for solid in self.solids], axis=1)
        return np.asarray((corners.min(1) + corners.max(1)) / 2, dtype=np.float64)


def _wheels(toy: Toy, places: Sequence[float], side: float, radius: float, width: float) -> None:
    for x in places:
        toy.pair(Cylinder, (x, side, radius), (radius, radius, width), rotation(x=pi / 2), tone=0.35)


def car(draw: Draw) -> Toy:
    """A long bonnet, a cabin at the back, dark windscreens, bright lamps in front."""
    toy = Toy()
    length, width, height = draw.uniform(0.9, 1.2), draw.uniform(0.4, 0.5), draw.uniform(0.13, 0.2)
    wheel = draw.uniform(0.17, 0.23)
    base = wheel * 0.8
    toy.add(Box, (0.0, 0.0, base + height), (length, width, height))
    cabin, roof = draw.uniform(0.4, 0.5) * length, draw.uniform(0.13, 0.2)
    x = draw.uniform(-0.38, -0.25) * length
    top = base + 2 * height
    toy.add(Box, (x, 0.0, top + roof), (cabin, width * 0.86, roof))
    lean = draw.uniform(0.5, 0.8)
    toy.add(Box, (x + cabin, 0.0, top + roof * 0.8), (0.02, width * 0.82, roof * 1.15), rotation(y=-lean), tone=0.25)
    toy.pair(Box, (x, width * 0.86, top + roof), (cabin * 0.75, 0.01, roof * 0.6), tone=0.25)
    toy.pair(Ellipsoid, (length, width * 0.65, base + height * 1.1), (0.06, 0.1, 0.08), tone=1.7)
    toy.add(Box, (-length, 0.0, base + height * 0.7), (0.05, width * 1.02, height * 0.3), tone=0.5)
    _wheels(toy, (-0.6 * length, 0.62 * length), width, wheel, 0.07)
    return toy


def truck(draw: Draw) -> Toy:
    """A cab with a windscreen, a gap, and a long box behind that is higher or lower than the cab."""
    toy = Toy()
    width, wheel = draw.uniform(0.32, 0.4), draw.uniform(0.13, 0.18)
    load, cab = draw.uniform(0.6, 0.85), draw.uniform(0.18, 0.26)
    box, tall = draw.uniform(0.2, 0.36), draw.uniform(0.2, 0.27)
    base = 2 * wheel
    front = load + 0.14 + 2 * cab
    toy.add(Box, (front / 2 - load / 2, 0.0, base), ((front + load) / 2, width * 0.7, 0.05), tone=0.5)
    toy.add(Box, (0.0, 0.0, base + 0.05 + box), (load, width, box))
    x = load + 0.14 + cab
    toy.add(Box, (x, 0.0, base + tall), (cab, width * 0.94, tall), tone=0.75)
    toy.add(Box, (x + cab, 0.0, base + tall * 1.4), (0.025, width * 0.82, tall * 0.4), tone=0.2)
    nose = draw.uniform(0.08, 0.2)
    toy.add(Box, (x + cab + nose, 0.0, base + tall * 0.45), (nose, width * 0.8, tall * 0.45), tone=0.75)
    toy.pair(Box, (x, width * 0.94, base + tall * 1.4), (cab * 0.55, 0.01, tall * 0.35), tone=0.2)
    _wheels(toy, (-0.72 * load, -0.3 * load, x + nose), width * 0.9, wheel, 0.06)
    return toy


def aeroplane(draw: Draw) -> Toy:
    """Wings before the middle and swept back, a tail with a fin at the back, engines under the wings."""
    toy = Toy()
    body, span = draw.uniform(0.13, 0.18), draw.uniform(0.75, 1.0)
    high = 0.35
    toy.add(Ellipsoid, (0.0, 0.0, high), (1.0, body, body))
    toy.add(Ellipsoid, (0.72, 0.0, high + body * 0.55), (0.13, body * 0.55, body * 0.35), tone=0.2)
    sweep, chord = draw.uniform(0.15, 0.5), draw.uniform(0.13, 0.2)
    x = draw.uniform(0.0, 0.15)
    turn = rotation(z=sweep)
    toy.pair(Box, (x - span * 0.5 * sweep, span * 0.5, high), (chord, span * 0.52, 0.03), turn)
    tail = draw.uniform(0.28, 0.42)
    toy.pair(Box, (-0.86, tail * 0.5, high + 0.05), (0.1, tail * 0.52, 0.025), rotation(z=0.35), tone=0.8)
    fin = draw.uniform(0.16, 0.25)
    toy.add(Box, (-0.88, 0.0, high + fin), (0.11, 0.025, fin), rotation(y=-0.4), tone=0.6)
    out = draw.uniform(0.35, 0.5) * span
    toy.pair(Cylinder, (x + 0.06, out, high - 0.08), (0.06, 0.06, 0.16), rotation(y=pi / 2), tone=0.6)
    toy.pair(Cylinder, (x - 0.1, 0.13, 0.1), (0.1, 0.1, 0.04), rotation(x=pi / 2), tone=0.35)
    toy.add(Cylinder, (0.65, 0.0, 0.1), (0.1, 0.1, 0.04), rotation(x=pi / 2), tone=0.35)
    return toy


def animal(draw: Draw) -> Toy:
    """A body on four legs, a neck with a head and a snout in front, a tail behind."""
    toy = Toy()
    long, girth = draw.uniform(0.6, 0.85), draw.uniform(0.2, 0.34)
    leg, thick = draw.uniform(0.2, 0.45), draw.uniform(0.06, 0.1)
    back = 2 * leg + girth * 0.7
    toy.add(Ellipsoid, (0.0, 0.0, back), (long, girth, girth))
    for x in (-0.6 * long, 0.6 * long):
        toy.pair(Cylinder, (x, girth * 0.55, leg), (thick, thick, leg), tone=0.8)
    neck, lean = draw.uniform(0.15, 0.4), draw.uniform(0.3, 0.8)
    lift = rotation(y=lean)
    start = np.array([long * 0.8, 0.0, back + girth * 0.3])
    top = start + lift @ np.array([0.0, 0.0, 2 * neck])
    middle = (start + top) / 2
    toy.add(Ellipsoid, (middle[0], 0.0, middle[2]), (0.13, 0.12, neck + 0.12), lift)
    head = draw.uniform(0.15, 0.2)
    toy.add(Ellipsoid, (top[0], 0.0, top[2]), (head * 1.25, head, head))
    snout = draw.uniform(0.12, 0.24)
    toy.add(Ellipsoid, (top[0] + head + snout * 0.5, 0.0, top[2] - 0.05), (snout, head * 0.5, head * 0.45), tone=0.6)
    toy.pair(Ellipsoid, (top[0] - head * 0.5, head * 0.75, top[2] + head), (0.05, 0.08, 0.14), tone=0.6)
    tail = draw.uniform(0.15, 0.4)
    down = draw.uniform(-0.6, 0.9)
    end = rotation(y=-down) @ np.array([-tail, 0.0, 0.0])
    toy.add(Ellipsoid, (-long * 0.92 + end[0], 0.0, back + girth * 0.3 - end[2]), (tail, 0.05, 0.05), rotation(y=down))
    return toy


def person(draw: Draw) -> Toy:
    """Arms held forward, one higher than the other, feet and a nose in front, a satchel on the back."""
    toy = Toy()
    leg, trunk = draw.uniform(0.3, 0.42), draw.uniform(0.27, 0.36)
    wide, deep = draw.uniform(0.2, 0.28), draw.uniform(0.12, 0.16)
    hip = 2 * leg
    stride = draw.uniform(0.0, 0.3)
    for side, step in ((1.0, stride), (-1.0, -stride)):
        y = side * wide * 0.55
        toy.add(Cylinder, (step * leg * 0.5, y, leg + 0.04), (0.09, 0.09, leg), rotation(y=-step * 0.5), tone=0.7)
        toy.add(Box, (step * leg + 0.08, y, 0.05), (0.17, 0.08, 0.05), tone=0.35)
    toy.add(Ellipsoid, (0.0, 0.0, hip + trunk * 0.95), (deep, wide, trunk * 1.1))
    shoulder = hip + trunk * 1.55
    reach = draw.uniform(0.26, 0.34)
    for side in (1.0, -1.0):
        lift = draw.uniform(-0.5, 0.35)
        end = rotation(y=-lift) @ np.array([reach, 0.0, 0.0])
        centre = (end[0], side * (wide + 0.04), shoulder + end[2])
        toy.add(Ellipsoid, centre, (reach + 0.06, 0.07, 0.07), rotation(y=-lift))
    head = draw.uniform(0.15, 0.19)
    top = hip + 2 * trunk + head * 0.9
    toy.add(Ellipsoid, (0.02, 0.0, top), (head, head * 0.9, head * 1.1))
    toy.add(Ellipsoid, (head + 0.02, 0.0, top - 0.02), (0.07, 0.04, 0.05), tone=1.3)
    toy.add(Cylinder, (0.05, 0.0, top + head * 0.7), (head * 1.4, head * 1.05, 0.03), tone=0.4)
    pack = draw.uniform(0.1, 0.17)
    toy.add(Box, (-deep - pack * 0.7, 0.0, hip + trunk * 1.1), (pack, wide * 0.75, trunk * 0.6), tone=0.4)
    return toy


FAMILIES: tuple[Callable[[Draw], Toy], ...] = (animal, person, aeroplane, truck, car)
"""smallNORB's five."""
