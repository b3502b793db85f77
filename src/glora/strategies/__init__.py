"""Searching a space under a parameter budget, by ask and tell: no strategy ever sees a model (no torch)."""

from __future__ import annotations

from glora.strategies.archive import History, front
from glora.strategies.evolution import Evolution
from glora.strategies.loop import SearchResult, Select, Tie, run_search
from glora.strategies.operators import crossover, legal_sample, mutate
from glora.strategies.score import Candidate, Fitness, Origin, Proposal, Score
from glora.strategies.strategy import Strategy

__all__ = [
    "Candidate",
    "Evolution",
    "Fitness",
    "History",
    "Origin",
    "Proposal",
    "Score",
    "SearchResult",
    "Select",
    "Strategy",
    "Tie",
    "crossover",
    "front",
    "legal_sample",
    "mutate",
    "run_search",
]
