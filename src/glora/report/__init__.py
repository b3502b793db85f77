"""The report of a run: one HTML page made from the files of its folder."""

from glora.report.page import write_report

__all__ = ["write_report"]
