"""What a run tells while it works, whoever listens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

__all__ = ["Progress", "SilentProgress"]


class Progress(Protocol):
    """Told what happens; the command line shows it on stderr."""

    def say(self, text: str) -> None:
        """One line of news."""

    def bar(self, label: str, total: int) -> Callable[[int, str], None]:
        """Open a progress bar; call what it gives with (done, figure)."""


class SilentProgress:
    """Says nothing (final): what all but the main process of a training do, and each cell of a bench."""

    def say(self, text: str) -> None:
        """One line of news, not shown."""

    def bar(self, label: str, total: int) -> Callable[[int, str], None]:
        """A bar that is not shown."""
        return lambda done, figure: None
