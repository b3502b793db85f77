"""Reports: one HTML page made from the files of a run's folder, or from the results of a bench."""

from __future__ import annotations

from glora.report.bench import write_bench_report
from glora.report.page import write_report

__all__ = ["write_bench_report", "write_report"]
