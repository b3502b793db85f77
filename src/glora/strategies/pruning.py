"""Exact pruning: which samples to look at first, and which evaluations must be made good after all.

Which samples are evaluated together may change logits by rounding, so it must not depend on what was pruned. The
batches and their order are settled once, when candidates first have a bar to come up to, by those that come up to it:
all candidates until then were evaluated as wholes, with or without pruning.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from glora.strategies.archive import front
from glora.strategies.score import Candidate
from glora.strategies.scorer import Batches

__all__ = ["batches", "hardest_first", "unsettled"]


def batches(order: Sequence[int], size: int) -> Batches:
    """Samples in this order, cut into batches of ``size``; the last one may be smaller."""
    return [tuple(order[start : start + size]) for start in range(0, len(order), size)]


def hardest_first(samples: int, candidates: Iterable[Candidate]) -> list[int]:
    """Indices of the samples, those first on which the losses of ``candidates`` are highest (in the geometric mean)."""
    hardness = [0] * samples
    for candidate in candidates:
        # A callable that scores one structure tells nothing of its samples, and a reused score nothing new.
        if candidate.score.levels and candidate.score.same_as is None:
            for index, level in enumerate(candidate.score.levels):
                hardness[index] += int(level, 16)
    return sorted(range(samples), key=lambda index: -hardness[index])


def unsettled(candidates: Sequence[Candidate], keep: int) -> list[Candidate]:
    """Stopped candidates that may be among the ``keep`` best or on the front, the most hopeful first.

    These are the ones that are there if every stopped candidate is as good as it could still be. Whatever the others
    turn out to be, it gives them no less room: so each must be known, and where none is left, the best and the front
    are those of whole evaluations.
    """
    hoped = sorted((candidate.hoped for candidate in candidates), key=Candidate.rank_key, reverse=True)
    wanted = {candidate.index for candidate in (*hoped[:keep], *front(hoped))}
    stopped = {candidate.index: candidate for candidate in candidates if candidate.score.bound is not None}
    return [stopped[one.index] for one in hoped if one.index in wanted and one.index in stopped]
