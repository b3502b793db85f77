"""The data sets that can be made, by name."""

from __future__ import annotations

from glora.data.made.copied import DigitsSet, FashionSet
from glora.data.made.dsprites import DspritesSet
from glora.data.made.objects import ObjectAzimuthSet, ObjectElevationSet
from glora.data.made.scenes import SceneCountSet, SceneDistanceSet
from glora.data.made.sets import MadeSet
from glora.data.made.textures import TexturesSet
from glora.errors import DataError, near_miss

__all__ = ["MADE", "made_set"]

MADE: dict[str, MadeSet] = {
    made.name: made
    for made in (
        DspritesSet("dsprites_loc", "x"),
        DspritesSet("dsprites_ori", "orientation"),
        SceneCountSet(),
        SceneDistanceSet(),
        ObjectAzimuthSet(),
        ObjectElevationSet(),
        TexturesSet(),
        DigitsSet(),
        FashionSet(),
    )
}
"""All of them."""


def made_set(name: str) -> MadeSet:
    """The data set of this name.

    Raises:
        DataError: if there is none, naming those there are.
    """
    if name not in MADE:
        raise DataError(f"no data set {name!r} can be made: there are {', '.join(MADE)}{near_miss(name, MADE)}")
    return MADE[name]
