"""The results of benches: finished cells from their file, and what is made of them over seeds, tasks and groups."""

from __future__ import annotations

from glora.results.file import Results, read_results
from glora.results.result import Failure, Result

__all__ = ["Failure", "Result", "Results", "read_results"]
