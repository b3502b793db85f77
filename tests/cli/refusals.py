"""What a refused command must look like."""

from __future__ import annotations

import re
from pathlib import Path

from small_run import FAST, Outcome, flags, timm_settings


def refused(done: Outcome, message: str) -> None:
    """Exit code 2, nothing on stdout, and exactly one line on stderr that matches."""
    assert done.code == 2, done.err
    assert done.out == ""
    assert done.err.endswith("\n")
    (line,) = done.err.splitlines()
    assert line.startswith("glora"), line
    assert re.search(message, line), line


def run_words(out: Path, **settings: object) -> list[str]:
    return ["run", *flags(timm_settings(**FAST) | settings), f"--out={out}"]
