"""Searching a space under a parameter budget, by ask and tell: no strategy ever sees a model (no torch)."""

from __future__ import annotations

from glora.search.archive import History, front
from glora.search.evolution import Evolution
from glora.search.loop import SearchResult, run_search
from glora.search.operators import crossover, legal_sample, mutate
from glora.search.score import Candidate, Origin, Proposal, Score
from glora.search.strategy import Strategy

__all__ = [
    "Candidate",
    "Evolution",
    "History",
    "Origin",
    "Proposal",
    "Score",
    "SearchResult",
    "Strategy",
    "crossover",
    "front",
    "legal_sample",
    "mutate",
    "run_search",
]
