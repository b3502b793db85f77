"""Errors a user can mend: each message names what is wrong, where, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "BackboneError",
    "BudgetError",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DivergenceError",
    "GloraError",
    "MergeError",
    "StructureError",
    "TargetError",
    "near_miss",
]


class GloraError(ValueError):
    """Base class of every error that wrong use or wrong input causes; the command line exits with 2."""


class StructureError(GloraError):
    """A form, layer structure, structure or search space that does not exist or does not fit the layers."""


class BudgetError(GloraError):
    """A budget that no structure of the search space can meet."""


class TargetError(GloraError):
    """Layers or a head that cannot be found or cannot be adapted."""


class CheckpointError(GloraError):
    """A file that is incomplete, foreign, damaged or bound to another backbone."""


class MergeError(GloraError):
    """A merge that is not finite or differs from the adapted model."""


class DataError(GloraError):
    """Data that cannot be read or used as it is."""


class DivergenceError(GloraError):
    """A training whose loss is no number any more."""


class BackboneError(GloraError):
    """A pretrained model that cannot be had or whose weights do not fit."""


class ConfigError(GloraError):
    """A setting that is out of range or contradicts another one or the run folder."""


def near_miss(name: object, known: Iterable[str]) -> str:
    """How a message on an unknown name ends: ``"; did you mean 'epochs'?"``, or nothing where no known name is near."""
    near = difflib.get_close_matches(str(name), list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
