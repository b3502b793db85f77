"""The results of benches: finished cells from their file, and what is made of them over seeds, tasks and groups."""

from __future__ import annotations

from glora.results.conditions import cautions
from glora.results.file import FORMAT, NAME, Results, ResultsFile, read_results
from glora.results.layers import Layer, read_layer, read_structure
from glora.results.result import Failure, Result
from glora.results.tally import Column, Row, Spread, Tally, labels, spread, tallies

__all__ = [
    "FORMAT",
    "NAME",
    "Column",
    "Failure",
    "Layer",
    "Result",
    "Results",
    "ResultsFile",
    "Row",
    "Spread",
    "Tally",
    "cautions",
    "labels",
    "read_layer",
    "read_results",
    "read_structure",
    "spread",
    "tallies",
]
