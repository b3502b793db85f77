"""Searching a space under a parameter budget, by ask and tell: no strategy ever sees a model (no torch)."""

from __future__ import annotations

from glora.strategies.ageing import AgeingEvolution
from glora.strategies.archive import History, front
from glora.strategies.evolution import Evolution
from glora.strategies.loop import SearchResult, Select, Tie, run_search
from glora.strategies.make import StrategyName, make_strategy
from glora.strategies.nsga2 import NSGA2
from glora.strategies.operators import crossover, legal_sample, mutate
from glora.strategies.random_search import RandomSearch
from glora.strategies.samplewise import Samplewise
from glora.strategies.score import Candidate, Fitness, Key, Merit, Origin, Proposal, Score
from glora.strategies.scorer import Batches, Scorer
from glora.strategies.strategy import Strategy
from glora.strategies.surrogate import Surrogate

__all__ = [
    "NSGA2",
    "AgeingEvolution",
    "Batches",
    "Candidate",
    "Evolution",
    "Fitness",
    "History",
    "Key",
    "Merit",
    "Origin",
    "Proposal",
    "RandomSearch",
    "Samplewise",
    "Score",
    "Scorer",
    "SearchResult",
    "Select",
    "Strategy",
    "StrategyName",
    "Surrogate",
    "Tie",
    "crossover",
    "front",
    "legal_sample",
    "make_strategy",
    "mutate",
    "run_search",
]
