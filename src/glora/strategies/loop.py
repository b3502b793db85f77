"""Running a strategy to its end, with a file it can be resumed from."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from glora.errors import CheckpointError, GloraError
from glora.soup import Soup
from glora.strategies.archive import History, front
from glora.strategies.pruning import Hardness, bar_at
from glora.strategies.score import Candidate, Merit, Proposal, Score
from glora.strategies.scorer import EachScorer, Scorer
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
            large; of those that were compared with it, see :func:`glora.selection.choose`.
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
    def effort(self) -> dict[str, int]:
        """What the search took: candidates, of which ``reused`` and ``stopped``, and evaluations of single samples.

        ``sample_evaluations`` is how many there were, ``of`` how many there would have been had every candidate been
        evaluated as a whole.
        """
        scores = [candidate.score for candidate in self.history]
        return {
            "candidates": len(scores),
            "reused": sum(score.same_as is not None for score in scores),
            "stopped": sum(score.bound is not None and score.same_as is None for score in scores),
            "sample_evaluations": sum(score.samples for score in scores if score.same_as is None),
            "of": sum(score.of or 0 for score in scores),
        }

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
    score: Callable[[Structure], Score] | Scorer,
    history_path: Path | None = None,
    on_candidate: Callable[[Candidate], None] | None = None,
    *,
    about: Mapping[str, Any] | None = None,
    prune: bool = True,
    keep: int = 0,
) -> SearchResult:
    """Score what the strategy asks for until it is done; structures that compute the same are scored once.

    Args:
        strategy: a fresh one.
        score: the bridge to a model: a callable that scores one structure, or a scorer of whole generations.
        history_path: ``search.jsonl``; what it holds is replayed instead of scored, the rest is appended.
        on_candidate: called with every candidate in order, replayed ones included.
        about: further plain values that the scores depend on (which supernet, which data), kept in the header of
            the file; it is refused where they differ.
        prune: let a scorer stop where a candidate can neither come up to the strategy's bar nor be on the front.
            Winner, front and everything the strategy asks for are the same without.
        keep: how many of the best are never stopped, whatever the strategy needs, for a choice among them.

    Raises:
        CheckpointError: if the file belongs to another search or is damaged.
        GloraError: if no candidate has a finite accuracy and loss, or the strategy has been used before.
    """
    if strategy.candidates:
        raise GloraError("this strategy has been told scores already: make a new one for each search")
    settings = strategy.settings if about is None else {**strategy.settings, "about": dict(about)}
    scorer = score if isinstance(score, Scorer) else EachScorer(score)
    with nullcontext() if history_path is None else History(history_path, settings) as history:
        scoring = _Scoring(scorer, history, prune, keep)
        while not strategy.done:
            scores = []
            with closing(scoring.generation(strategy.ask(), strategy.bar)) as candidates:
                for candidate in candidates:
                    scores.append(candidate.score)
                    if on_candidate is not None:
                        on_candidate(candidate)
            strategy.tell(scores)
        scoring.replay.check_empty()
    return _result(strategy.candidates)


class _Scoring:
    """Makes proposals candidates: from the file, from an equivalent structure's score, or by the scorer (final)."""

    def __init__(self, scorer: Scorer, history: History | None, prune: bool, keep: int) -> None:
        self.replay = _Replay(history)
        self._scorer, self._history, self._prune, self._keep = scorer, history, prune, keep
        self._hardness = Hardness(scorer.samples, scorer.batch_size)
        self._candidates: list[Candidate] = []
        # The last candidate of every canonical structure that has a score of its own.
        self._known: dict[Structure, Candidate] = {}

    def generation(self, proposals: Sequence[Proposal], bar: Merit | None) -> Generator[Candidate]:
        """The candidates of a generation in order, each on file before the next one comes."""
        batches = self._hardness.batches(sort=bar is not None)
        bar = self._lowered(bar) if self._prune else None
        bars = [bar_at(proposal.size, bar, self._candidates) for proposal in proposals]
        keys = [self._scorer.canonical(proposal.structure) for proposal in proposals]
        found: list[Candidate] = []
        for proposal, key, own in zip(proposals, keys, bars, strict=True):
            recorded = self.replay(proposal, own)
            if recorded is None:
                break
            found.append(self._entered(recorded, key))
            yield recorded
        done = len(found)
        todo = self._to_score(keys[done:], bars[done:])
        structures = [proposals[done + place].structure for place in todo]
        with closing(self._scorer.scores(structures, batches, list(todo.values()))) as scores:
            for place, (proposal, key) in enumerate(zip(proposals[done:], keys[done:], strict=True)):
                score = next(scores) if place in todo else _reused(self._known[key])
                candidate = proposal.scored(score)
                if self._history is not None:
                    self._history.append(candidate)
                found.append(self._entered(candidate, key))
                yield candidate
        self._candidates += found
        self._hardness.count(found)

    def _lowered(self, bar: Merit | None) -> Merit | None:
        """The bar, or the worst of those to be kept if that is lower; None as long as there are fewer."""
        if self._keep == 0:
            return bar
        able = (candidate for candidate in self._candidates if not candidate.score.failed)
        kept = sorted(able, key=Candidate.rank_key, reverse=True)[: self._keep]
        return _lower(bar, kept[-1].score.merit) if len(kept) == self._keep else None

    def _to_score(self, keys: Sequence[Structure], bars: Sequence[Merit | None]) -> dict[int, Merit | None]:
        """Places of the structures that no other one can lend its score, with the lowest bar of their equivalents."""
        todo: dict[int, Merit | None] = {}
        first: dict[Structure, int] = {}
        for place, (key, bar) in enumerate(zip(keys, bars, strict=True)):
            if key in first:
                todo[first[key]] = _lower(todo[first[key]], bar)
            elif key not in self._known or not _is_enough(self._known[key].score, bar):
                first[key] = place
                todo[place] = bar
        return todo

    def _entered(self, candidate: Candidate, key: Structure) -> Candidate:
        if candidate.score.same_as is None:
            self._known[key] = candidate
        return candidate


def _is_enough(score: Score, bar: Merit | None) -> bool:
    """Whether a score answers what ``bar`` asks: it is whole, or a bound below it."""
    return score.bound is None or (bar is not None and score.bound.below(bar))


def _lower(first: Merit | None, second: Merit | None) -> Merit | None:
    if first is None or second is None:
        return None
    return first if first.below(second) else second


def _reused(candidate: Candidate) -> Score:
    return replace(candidate.score, same_as=candidate.index)


class _Replay:
    """The candidates on file, handed out one by one against the proposals they must match (final)."""

    def __init__(self, history: History | None) -> None:
        self._path = history.path if history else None
        self._left = iter(history.recorded if history else ())

    def __call__(self, proposal: Proposal, bar: Merit | None) -> Candidate | None:
        recorded = next(self._left, None)
        if recorded is not None:
            if recorded.to_dict() != proposal.scored(recorded.score).to_dict():
                raise self._error(recorded, "is not the structure that the search asks for there")
            if not _is_enough(recorded.score, bar):
                raise self._error(recorded, "was stopped where this search needs a whole evaluation")
        return recorded

    def check_empty(self) -> None:
        if (recorded := next(self._left, None)) is not None:
            raise self._error(recorded, "comes after the end of the search")

    def _error(self, recorded: Candidate, what: str) -> CheckpointError:
        return CheckpointError(
            f"{self._path}, line {recorded.index + 2}: {what}; the file was changed or written by another "
            "version: delete it to search anew"
        )


def _result(candidates: tuple[Candidate, ...]) -> SearchResult:
    best = max(candidates, key=Candidate.rank_key)
    if best.score.failed:
        raise GloraError(
            f"none of the {len(candidates)} candidates has a finite accuracy and loss: the supernet has diverged; "
            "train it again at a lower learning rate or in a wider precision"
        )
    return SearchResult(best, front(candidates), candidates)
