"""Series of a chart, told apart by colour and shape: Okabe and Ito's colours, seven of them, and six shapes.

As 7 and 6 have no common factor, 42 series differ in one or the other, and neighbours in both.
"""

from __future__ import annotations

from html import escape
from importlib.resources import files

__all__ = ["key_of", "series_styles", "style_sheet", "symbol"]

# Of about the same area, around (0, 0).
_SHAPES = (
    "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0z",
    "M-4 -4h8v8h-8z",
    "M0 -5.2L5.2 4H-5.2z",
    "M0 -5.8L5.4 0L0 5.8L-5.4 0z",
    "M0 5.2L5.2 -4H-5.2z",
    "M-1.7 -5.2h3.4v3.5h3.5v3.4h-3.5v3.5h-3.4v-3.5h-3.5v-3.4h3.5z",
)
_HUES = 7


def symbol(series: int, across: float, down: float, tip: str = "", style: str = "") -> str:
    """The mark of a series at a place of the drawing."""
    title = f"<title>{escape(tip)}</title>" if tip else ""
    classes = f"symbol series-{series} {style}".rstrip()
    return (
        f'<path class="{classes}" transform="translate({across:.1f} {down:.1f})" '
        f'd="{_SHAPES[series % len(_SHAPES)]}">{title}</path>'
    )


def key_of(series: int) -> str:
    """What stands before the name of a series: its line and its mark, 22 wide, around y = 0."""
    return f'<path class="line series-{series}" d="M1 0H21"/>{symbol(series, 11, 0)}'


def series_styles(count: int) -> str:
    """Rules that colour ``count`` series, and hide or dim them by the check boxes of a legend, where it is linked."""
    rules = []
    for i in range(count):
        rules += [
            f".series-{i} {{ --c: var(--hue-{i % _HUES}); }}",
            f".linked:has(.show-{i}:not(:checked)) .drawing .series-{i} {{ display: none; }}",
            f".linked:has(.of-{i}:hover) .drawing [class*=series-]:not(.series-{i}) {{ opacity: 0.12; }}",
        ]
    return "\n".join(rules) + "\n"


def style_sheet(count: int) -> str:
    """The style sheet of a drawing alone that has ``count`` series."""
    rules = "".join(f".series-{i} {{ --c: var(--hue-{i % _HUES}); }}\n" for i in range(count))
    return (files(__package__) / "chart.css").read_text(encoding="utf-8") + rules
