"""Running a strategy to its end, with a file it can be resumed from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from glora.errors import CheckpointError, GloraError
from glora.soup import Soup
from glora.strategies.archive import History, front
from glora.strategies.score import Candidate, Proposal, Score
from glora.strategies.strategy import Strategy
from glora.structure import Structure

__all__ = ["SearchResult", "Select", "Tie", "run_search"]

Select = Literal["best", "smallest", "soup"]


@dataclass(frozen=True, slots=True)
class Tie:
    """A candidate that the data cannot tell from the best one.

    Attributes:
        candidate: which.
        difference: by how much the best is better, in the fitness, on the same samples.
        error: standard error of that difference, from the samples' own differences.
    """

    candidate: Candidate
    difference: float
    error: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, the candidate by its index."""
        return {"index": self.candidate.index, "difference": self.difference, "error": self.error}


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What a search found.

    Attributes:
        winner: the candidate that was selected: mostly the one that ranks highest.
        front: the Pareto front of fitness against size, from small to large.
        history: every candidate, in the order scored.
        ties: candidates not distinguishably worse than the highest ranking one, which is among them, from small to
            large; of those that were looked at once more, see :func:`glora.selection.choose`.
        soup: the mean of subnets to use instead of the winner, or None.
        soup_score: of the soup, on the same samples as the candidates.
        select: how winner and soup were selected.
    """

    winner: Candidate
    front: tuple[Candidate, ...]
    history: tuple[Candidate, ...]
    ties: tuple[Tie, ...] = ()
    soup: Soup | None = None
    soup_score: Score | None = None
    select: Select = "best"

    @property
    def best(self) -> Structure:
        """The winner's structure."""
        return self.winner.structure

    @property
    def chosen(self) -> Structure | Soup:
        """What to use: the soup if there is one, else the winner's structure."""
        return self.winner.structure if self.soup is None else self.soup

    @property
    def score(self) -> Score:
        """The score of what was chosen."""
        return self.winner.score if self.soup_score is None else self.soup_score

    def to_dict(self) -> dict[str, Any]:
        """All but the history as plain values, for ``structure.json``."""
        return {
            "best": self.winner.to_dict(),
            "select": self.select,
            "ties": [tie.to_dict() for tie in self.ties],
            **({"soup": self.soup.to_dict() | self.soup_score.to_dict()} if self.soup and self.soup_score else {}),
            "front": [candidate.to_dict() for candidate in self.front],
        }


def run_search(
    strategy: Strategy,
    score: Callable[[Structure], Score],
    history_path: Path | None = None,
    on_candidate: Callable[[Candidate], None] | None = None,
    *,
    about: Mapping[str, Any] | None = None,
) -> SearchResult:
    """Score what the strategy asks for until it is done.

    Args:
        strategy: a fresh one.
        score: the bridge to a model; called once per structure.
        history_path: ``search.jsonl``; what it holds is replayed instead of scored, the rest is appended.
        on_candidate: called with every candidate in order, replayed ones included.
        about: further plain values that the scores depend on (which supernet, which data), kept in the header of
            the file; it is refused where they differ.

    Raises:
        CheckpointError: if the file belongs to another search or is damaged.
        GloraError: if no candidate has a finite accuracy and loss, or the strategy has been used before.
    """
    if strategy.candidates:
        raise GloraError("this strategy has been told scores already: make a new one for each search")
    settings = strategy.settings if about is None else {**strategy.settings, "about": dict(about)}
    with nullcontext() if history_path is None else History(history_path, settings) as history:
        replay = _Replay(history)
        while not strategy.done:
            scores = []
            for proposal in strategy.ask():
                candidate = replay(proposal) or _evaluate(proposal, score, history)
                scores.append(candidate.score)
                if on_candidate is not None:
                    on_candidate(candidate)
            strategy.tell(scores)
        replay.check_empty()
    return _result(strategy.candidates)


class _Replay:
    """The candidates on file, handed out one by one against the proposals they must match (final)."""

    def __init__(self, history: History | None) -> None:
        self._path = history.path if history else None
        self._left = iter(history.recorded if history else ())

    def __call__(self, proposal: Proposal) -> Candidate | None:
        recorded = next(self._left, None)
        if recorded is not None and recorded.to_dict() != proposal.scored(recorded.score).to_dict():
            raise self._error(recorded, "is not the structure that the search asks for there")
        return recorded

    def check_empty(self) -> None:
        if (recorded := next(self._left, None)) is not None:
            raise self._error(recorded, "comes after the end of the search")

    def _error(self, recorded: Candidate, what: str) -> CheckpointError:
        return CheckpointError(
            f"{self._path}, line {recorded.index + 2}: {what}; the file was changed or written by another "
            "version: delete it to search anew"
        )


def _evaluate(proposal: Proposal, score: Callable[[Structure], Score], history: History | None) -> Candidate:
    result = score(proposal.structure)
    if not isinstance(result, Score):
        raise GloraError(f"score(structure) must return a glora.strategies.Score, not {type(result).__name__}")
    candidate = proposal.scored(result)
    if history is not None:
        history.append(candidate)
    return candidate


def _result(candidates: tuple[Candidate, ...]) -> SearchResult:
    best = max(candidates, key=Candidate.rank_key)
    if best.score.failed:
        raise GloraError(
            f"none of the {len(candidates)} candidates has a finite accuracy and loss: the supernet has diverged; "
            "train it again at a lower learning rate or in a wider precision"
        )
    return SearchResult(best, front(candidates), candidates)
