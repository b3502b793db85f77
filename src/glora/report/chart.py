"""A small chart in SVG: axes, lines, bands, dots, bars. Colours come from a style sheet, so dark mode works.

Plain text is enough here and keeps three things simple: the marks have tooltips without a script, the same input
gives the same bytes, and no element needs an id.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

from glora.report import words
from glora.report.series import key_of, symbol

__all__ = ["Axis", "Chart"]

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis: its label, its ends, how a tick is written; ``named`` replaces the ticks by places with names.

    A logarithmic one has no place for 0; ``zero`` gives it one, at the low end, apart from the others.
    """

    label: str
    low: float
    high: float
    write: Callable[[float], str] = words.number
    log: bool = False
    whole: bool = False
    named: tuple[tuple[float, str], ...] | None = None
    zero: bool = False

    @classmethod
    def fit(
        cls,
        label: str,
        values: Iterable[float],
        write: Callable[[float], str] = words.number,
        *,
        pad: float = 0.05,
        log: bool = False,
        whole: bool = False,
        most: float = math.inf,
    ) -> Axis:
        """An axis around the finite ones of ``values``, with a margin of ``pad`` of the span, not above ``most``."""
        values = list(values)
        zero = log and 0 in values
        finite = [value for value in values if math.isfinite(value) and (value > 0 or not log)] or [1.0]
        low, high = min(finite), max(finite)
        if low == high:
            pad = max(pad, 0.05)
            low, high = (low / 2, high * 2) if log else (low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2)
        if log:
            factor = (high / low) ** pad
            # An eighth of the width for zero, apart from the smallest.
            left = (high / low) ** (1 / 7) if zero else factor
            return cls(label, low / left, high * factor, write, log=True, zero=zero)
        margin = pad * (high - low)
        return cls(label, low - margin, min(high + margin, most), write, whole=whole)

    def share(self, value: float) -> float:
        """Where ``value`` lies: 0 at the low end, 1 at the high one."""
        if self.log:
            if self.zero and value <= 0:
                return 0.02
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self, most: int) -> list[tuple[float, str]]:
        """At most about ``most`` round places and their texts."""
        if self.named is not None:
            return list(self.named)
        places = self._decades(most) if self.log else self._steps(most)
        apart = [0.0] if self.zero else []
        return [(place, self.write(place)) for place in (*apart, *(p for p in places if not apart or self._clear(p)))]

    def _clear(self, place: float) -> bool:
        """Whether a tick is far enough from that of zero."""
        return self.share(place) > 0.1

    def _steps(self, most: int) -> list[float]:
        rough = (self.high - self.low) / most
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * nice for nice in (1, 2, 5, 10) if power * nice >= rough * 0.999)
        step = max(step, 1.0) if self.whole else step
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [round(index * step, 12) for index in range(first, last + 1)]

    def _decades(self, most: int) -> list[float]:
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for nice in ((1, 2, 5), (1, 3), (1,)):
            places = [n * 10.0**p for p in powers for n in nice if self.low <= n * 10.0**p <= self.high]
            if len(places) <= most:
                break
        return places


class Chart:
    """Draws marks between two axes; every ``style`` is a class of the page's style sheet."""

    WIDTH = 480
    LEFT, RIGHT, TOP, BOTTOM = 58, 14, 12, 42

    def __init__(self, x: Axis, y: Axis, height: int = 290) -> None:
        self.x, self.y, self.height = x, y, height
        self._marks: list[str] = []

    def _at(self, point: Point) -> Point:
        across = self.LEFT + self.x.share(point[0]) * (self.WIDTH - self.LEFT - self.RIGHT)
        return across, self.height - self.BOTTOM - self.y.share(point[1]) * (self.height - self.TOP - self.BOTTOM)

    def line(self, points: Sequence[Point], style: str, *, stepped: bool = False) -> None:
        """A line through the points, broken where one is not finite."""
        path, gap, last = "", True, 0.0
        for point in points:
            if not all(map(math.isfinite, point)):
                gap = True
                continue
            across, down = self._at(point)
            corner = f"L{across:.1f} {last:.1f}" if stepped and not gap else ""
            path += f"{corner}{'M' if gap else 'L'}{across:.1f} {down:.1f}"
            gap, last = False, down
        if path:
            self._marks.append(f'<path class="line {style}" d="{path}"/>')

    def dots(self, points: Iterable[Point], style: str) -> None:
        """Many points as one element: a line of no length with round ends is a dot."""
        placed = [self._at(point) for point in points if all(map(math.isfinite, point))]
        if placed:
            path = "".join(f"M{across:.1f} {down:.1f}h0" for across, down in placed)
            self._marks.append(f'<path class="dots {style}" d="{path}"/>')

    def band(self, edges: Sequence[tuple[float, float, float]], style: str) -> None:
        """The area between the low and the high of (x, low, high), where there are two x or more."""
        if len(edges) > 1:
            there = [self._at((x, high)) for x, _, high in edges]
            back = [self._at((x, low)) for x, low, _ in reversed(edges)]
            path = "L".join(f"{across:.1f} {down:.1f}" for across, down in (*there, *back))
            self._marks.append(f'<path class="band {style}" d="M{path}Z"/>')

    def whisker(self, x: float, low: float, high: float, style: str) -> None:
        """A thin vertical line from ``low`` to ``high``."""
        (across, bottom), (_, top) = self._at((x, low)), self._at((x, high))
        self._marks.append(f'<path class="whisker {style}" d="M{across:.1f} {bottom:.1f}V{top:.1f}"/>')

    def symbol(self, point: Point, series: int, tip: str, style: str = "") -> None:
        """One point of a series, in its shape and colour, with a tooltip."""
        across, down = self._at(point)
        self._marks.append(symbol(series, across, down, tip, style))

    def mark(self, point: Point, style: str, tip: str, radius: float = 4) -> None:
        """One point with a tooltip."""
        if all(map(math.isfinite, point)):
            across, down = self._at(point)
            self._marks.append(
                f'<circle class="mark {style}" cx="{across:.1f}" cy="{down:.1f}" r="{radius:g}">'
                f"<title>{escape(tip)}</title></circle>"
            )

    def bar(self, left: float, right: float, low: float, high: float, style: str, tip: str) -> None:
        """A rectangle with a tooltip."""
        (x0, y0), (x1, y1) = self._at((left, low)), self._at((right, high))
        self._marks.append(
            f'<rect class="bar {style}" x="{x0:.2f}" y="{y1:.2f}" width="{x1 - x0:.2f}" height="{y0 - y1:.2f}">'
            f"<title>{escape(tip)}</title></rect>"
        )

    def rule(self, x: float, style: str, label: str = "") -> None:
        """A vertical line over the whole height, with a label at its top on the side that has room."""
        across = self._at((x, self.y.low))[0]
        bottom = self.height - self.BOTTOM
        self._marks.append(f'<path class="rule {style}" d="M{across:.1f} {self.TOP}V{bottom}"/>')
        if label:
            left = self.x.share(x) > 0.5
            where = f'x="{across + (-5 if left else 5):.1f}" y="{bottom - 8}"'
            self._marks.append(f'<text {where} class="halo {"end" if left else "start"}">{escape(label)}</text>')

    def svg(self, label: str) -> Markup:
        """The finished drawing; ``label`` is what a screen reader says."""
        body = "".join([*self._axes(), *self._marks])
        return Markup(
            f'<svg viewBox="0 0 {self.WIDTH} {self.height}" role="img" aria-label="{escape(label)}">{body}</svg>'
        )

    def file(self, label: str, style_sheet: str, legend: Sequence[str]) -> str:
        """The drawing as a file of its own, with the names of its series above it, two a line."""
        top = 22 * math.ceil(len(legend) / 2) + 8
        keys = "".join(
            f'<g transform="translate({self.LEFT + (index % 2) * 210} {22 * (index // 2) + 16})">{key_of(index)}'
            f'<text x="28" y="4">{escape(name)}</text></g>'
            for index, name in enumerate(legend)
        )
        whole = self.height + top
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.WIDTH} {whole}" width="{2 * self.WIDTH}" '
            f'role="img" aria-label="{escape(label)}">\n<style>\n{style_sheet}</style>\n'
            f'<rect class="sheet" width="{self.WIDTH}" height="{whole}"/>{keys}\n<g transform="translate(0 {top})">'
            f"{''.join([*self._axes(), *self._marks])}</g>\n</svg>\n"
        )

    def _axes(self) -> Iterable[str]:
        left, right, bottom = self.LEFT, self.WIDTH - self.RIGHT, self.height - self.BOTTOM
        for place, text in self.y.ticks(max(3, self.height // 45)):
            down = self._at((self.x.low, place))[1]
            yield f'<path class="grid" d="M{left} {down:.1f}H{right}"/>'
            yield f'<text class="end" x="{left - 7}" y="{down + 4:.1f}">{escape(text)}</text>'
        yield f'<path class="base" d="M{left} {bottom}H{right}"/>'
        for place, text in self.x.ticks(7):
            across = self._at((place, self.y.low))[0]
            if self.x.named is None:
                yield f'<path class="base" d="M{across:.1f} {bottom}v4"/>'
            yield f'<text class="middle" x="{across:.1f}" y="{bottom + 17}">{escape(text)}</text>'
        middle = (left + right) / 2
        yield f'<text class="middle name" x="{middle:.1f}" y="{self.height - 6}">{escape(self.x.label)}</text>'
        down = (self.TOP + bottom) / 2
        yield (
            f'<text class="middle name" x="0" y="0" transform="translate(14 {down:.1f}) rotate(-90)">'
            f"{escape(self.y.label)}</text>"
        )
