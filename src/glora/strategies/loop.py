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
from glora.strategies.pruning import batches, hardest_first, unsettled
from glora.strategies.score import Candidate, Key, Proposal, Score
from glora.strategies.scorer import EachScorer, Scorer
from glora.strategies.strategy import Strategy
from glora.structure import Structure

__all__ = ["SearchResult", "Select", "Tie", "run_search"]

Select = Literal["best", "smallest", "soup"]

# How many candidates are scored under the same bar: what they come to raises it for the next ones of their generation.
# Fewer would stop a little more, and leave more than a few workers idle.
_WAVE = 10

Bar = Callable[[Sequence[Candidate]], Key | None]


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
        history: every candidate, in the order asked for.
        ties: candidates not distinguishably worse than the highest ranking one, which is among them, from small to
            large; of those that were compared with it, see :func:`glora.selection.choose`.
        soup: the mean of subnets to use instead of the winner, or None.
        soup_score: of the soup, on the same samples as the candidates.
        select: how winner and soup were selected.
        completed: candidates that were evaluated as wholes at the end, as they had been when they were stopped.
    """

    winner: Candidate
    front: tuple[Candidate, ...]
    history: tuple[Candidate, ...]
    ties: tuple[Tie, ...] = ()
    soup: Soup | None = None
    soup_score: Score | None = None
    select: Select = "best"
    completed: tuple[Candidate, ...] = ()

    @property
    def best(self) -> Structure:
        """The winner's structure."""
        return self.winner.structure

    @property
    def effort(self) -> dict[str, int]:
        """What the search took: candidates and evaluations of single samples.

        Candidates are ``reused`` (another one's score), ``stopped`` and ``completed`` (known only as a bound, their
        own or another one's, and evaluated as wholes at the end). ``sample_evaluations`` is how many there were,
        ``of`` how many there would have been had every candidate been evaluated as a whole.
        """
        scores = [candidate.score for candidate in self.history]
        spent = [score for score in (*scores, *(c.score for c in self.completed)) if score.same_as is None]
        return {
            "candidates": len(scores),
            "reused": sum(score.same_as is not None for score in scores),
            "stopped": sum(score.bound is not None for score in spent),
            "completed": len(self.completed),
            "sample_evaluations": sum(score.samples for score in spent),
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
        on_candidate: called with every candidate in order as it is first scored, replayed ones included.
        about: further plain values that the scores depend on (which supernet, which data), kept in the header of
            the file; it is refused where they differ.
        prune: let a scorer stop where a candidate cannot come up to the strategy's bar. Those that may be on the
            front or among the best are evaluated as wholes at the end: winner, front, the ``keep`` best and every
            structure that the strategy asks for are the same without. A strategy that learns from what stopped
            evaluations showed asks for others without; winner, front and best of all it asked for are exact.
        keep: how many of the best must be known, for a choice among them.

    Raises:
        CheckpointError: if the file belongs to another search or is damaged.
        GloraError: if no candidate has a finite accuracy and loss, or the strategy has been used before.
    """
    if strategy.candidates:
        raise GloraError("this strategy has been told scores already: make a new one for each search")
    settings = strategy.settings if about is None else {**strategy.settings, "about": dict(about)}
    scorer = score if isinstance(score, Scorer) else EachScorer(score)
    with nullcontext() if history_path is None else History(history_path, settings) as history:
        scoring = _Scoring(scorer, history, prune, max(keep, 1))
        while not strategy.done:
            scores = []
            with closing(scoring.generation(strategy.ask(), strategy.bar)) as candidates:
                for candidate in candidates:
                    scores.append(candidate.score)
                    if on_candidate is not None:
                        on_candidate(candidate)
            strategy.tell(scores)
        completed = scoring.complete()
        scoring.replay.check_empty()
    return _result(scoring.candidates, completed)


class _Scoring:
    """Makes proposals candidates: from the file, from an equivalent structure's score, or by the scorer (final)."""

    def __init__(self, scorer: Scorer, history: History | None, prune: bool, keep: int) -> None:
        self.replay = _Replay(history)
        self.candidates: list[Candidate] = []
        self._scorer, self._history, self._prune, self._keep = scorer, history, prune, keep
        self._batches = batches(range(scorer.samples), scorer.batch_size)
        self._sorted = False
        # The last candidate of every canonical structure that has a score of its own.
        self._known: dict[Structure, Candidate] = {}

    def generation(self, proposals: Sequence[Proposal], bar: Bar) -> Generator[Candidate]:
        """The candidates of a generation in order, each on file before the next one comes.

        Args:
            proposals: what the strategy asks for.
            bar: the strategy's, which those of them that are found raise for the next wave.
        """
        start, wave = len(self.candidates), len(proposals)
        if (now := bar(())) is not None:
            if not self._sorted:
                good = [one for one in self.candidates if not one.score.failed and one.score.key >= now]
                order = hardest_first(self._scorer.samples, good)
                self._batches, self._sorted = batches(order, self._scorer.batch_size), True
            wave = _WAVE if self._prune else wave
        for first in range(0, len(proposals), wave):
            now = self._lowered(bar(self.candidates[start:])) if self._prune else None
            for candidate in self._scored(proposals[first : first + wave], now):
                self.candidates.append(candidate)
                yield candidate

    def _lowered(self, bar: Key | None) -> Key | None:
        """The bar, or where that is lower, the middle one of those that must be known; None while there are fewer.

        Under a higher one, more would be completed at the end than stopping had saved.
        """
        known = sorted((one.score.key for one in self.candidates if not one.score.failed), reverse=True)
        return None if bar is None or len(known) < self._keep else min(bar, known[(self._keep - 1) // 2])

    def complete(self) -> tuple[Candidate, ...]:
        """Evaluate as wholes, until none is left, those that may be among the best or on the front.

        Returns:
            What they were before.
        """
        completed: list[Candidate] = []
        while left := unsettled(self.candidates, self._keep):
            completed += left
            for candidate in self._scored([one.proposal for one in left], None):
                self.candidates[candidate.index] = candidate
        return tuple(completed)

    def _scored(self, proposals: Sequence[Proposal], bar: Key | None) -> Generator[Candidate]:
        keys = [self._scorer.canonical(proposal.structure) for proposal in proposals]
        done = 0
        for proposal, key in zip(proposals, keys, strict=True):
            recorded = self.replay(proposal, bar)
            if recorded is None:
                break
            done += 1
            yield self._entered(recorded, key)
        todo = self._to_score(keys[done:], bar)
        structures = [proposals[done + place].structure for place in todo]
        with closing(self._scorer.scores(structures, self._batches, bar)) as scores:
            for place, (proposal, key) in enumerate(zip(proposals[done:], keys[done:], strict=True)):
                score = next(scores) if place in todo else _reused(self._known[key])
                candidate = proposal.scored(score)
                if self._history is not None:
                    self._history.append(candidate)
                yield self._entered(candidate, key)

    def _to_score(self, keys: Sequence[Structure], bar: Key | None) -> list[int]:
        """Places of the structures that no other one can lend its score."""
        first = {key: place for place, key in reversed(list(enumerate(keys)))}
        known = {key for key in first if key in self._known and _is_enough(self._known[key].score, bar)}
        return sorted(place for key, place in first.items() if key not in known)

    def _entered(self, candidate: Candidate, key: Structure) -> Candidate:
        if candidate.score.same_as is None:
            self._known[key] = candidate
        return candidate


def _is_enough(score: Score, bar: Key | None) -> bool:
    """Whether a score answers what ``bar`` asks: it is whole, or a bound below it."""
    return score.bound is None or (bar is not None and score.hoped.key < bar)


def _reused(candidate: Candidate) -> Score:
    return replace(candidate.score, same_as=candidate.index)


class _Replay:
    """The candidates on file, handed out one by one against the proposals they must match (final)."""

    def __init__(self, history: History | None) -> None:
        self._path = history.path if history else None
        self._left = enumerate(history.recorded if history else (), 2)

    def __call__(self, proposal: Proposal, bar: Key | None) -> Candidate | None:
        line, recorded = next(self._left, (0, None))
        if recorded is not None:
            if recorded.to_dict() != proposal.scored(recorded.score).to_dict():
                raise self._error(line, "is not the structure that the search asks for there")
            if not _is_enough(recorded.score, bar):
                raise self._error(line, "was stopped where this search needs a whole evaluation")
        return recorded

    def check_empty(self) -> None:
        for line, _ in self._left:
            raise self._error(line, "comes after the end of the search")

    def _error(self, line: int, what: str) -> CheckpointError:
        return CheckpointError(
            f"{self._path}, line {line}: {what}; the file was changed or written by another version: delete it to "
            "search anew"
        )


def _result(candidates: Sequence[Candidate], completed: tuple[Candidate, ...]) -> SearchResult:
    best = max(candidates, key=Candidate.rank_key)
    if best.score.failed:
        raise GloraError(
            f"none of the {len(candidates)} candidates has a finite accuracy and loss: the supernet has diverged; "
            "train it again at a lower learning rate or in a wider precision"
        )
    return SearchResult(best, front(candidates), tuple(candidates), completed=completed)
