"""Numbers as a reader wants them."""

from __future__ import annotations

import math
import re

__all__ = ["count", "duration", "number", "percent", "points", "short", "standard_error", "tiny"]

MISSING = "–"  # noqa: RUF001 (an en dash is what an empty cell of a table shows)


def count(value: int | None) -> str:
    """A whole number with its thousands apart: 298,112."""
    return MISSING if value is None else f"{value:,}"


def short(value: float) -> str:
    """A large number in few letters, for axes: 300k, 1.5M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def number(value: float | None) -> str:
    """A figure of unknown size to three digits."""
    if value is None:
        return MISSING
    return re.sub(r"e([-+])0", r"e\1", f"{value:.3g}") if math.isfinite(value) else "not finite"


def tiny(value: float) -> str:
    """A learning rate: 5e-4 rather than 0.0005."""
    if value == 0 or abs(value) >= 0.01 or not math.isfinite(value):
        return number(value)
    return re.sub(r"\.?0*e-0*", "e-", f"{value:.2e}")


def digits(n: int | None) -> int:
    """Decimals that an accuracy in percent over ``n`` samples deserves: no more than its error makes sense of."""
    return 2 if n is not None and n >= 20_000 else 1


def percent(value: float | None, n: int | None = None) -> str:
    """A share of one as percent, without the sign."""
    if value is None:
        return MISSING
    return f"{100 * value:.{digits(n)}f}" if math.isfinite(value) else "not finite"


def points(value: float, n: int | None = None) -> str:
    """A difference of two shares in percentage points, without its sign."""
    return f"{abs(100 * value):.{digits(n)}f}"


def standard_error(accuracy: float | None, n: int | None) -> float | None:
    """The binomial standard error of an accuracy measured on ``n`` samples, or None where there is none."""
    if accuracy is None or not n or n < 1 or not 0 <= accuracy <= 1:
        return None
    return math.sqrt(accuracy * (1 - accuracy) / n)


def duration(seconds: float | None) -> str:
    """Seconds as a person says them: 8.4 s, 12 min 30 s, 1 h 04 min."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"
