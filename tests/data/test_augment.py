"""Augmented images against timm's own transforms, written out and seeded by hand."""

from __future__ import annotations

import os
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pictures import picture
from PIL import Image
from timm.data import create_transform
from torch import Tensor

from glora.data import ImageSamples, Preprocessing, Samples, TensorSamples
from glora.data.augment import check_augment
from glora.data.samples import JoinedSamples
from glora.errors import ConfigError, DataError
from oracles.augmented import noah, seeded

HOW = Preprocessing(size=16, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
SHAPE = {"interpolation": "bicubic", "mean": HOW.mean, "std": HOW.std}
# What differs from NOAH's settings.
TIMM: dict[str, dict[str, Any]] = {
    "crop": {"color_jitter": None, "auto_augment": None, "re_prob": 0.0},
    "randaugment": {},
    "rand-m9-mstd0.5-inc1": {},
    "rand-m5-n1-p0.9": {"auto_augment": "rand-m5-n1-p0.9"},
}
COUNT = 12
NUMBERS = [7 * index + 2**31 for index in range(COUNT)]


def by_hand(augment: str, paths: list[Path], numbers: list[int]) -> Tensor:
    transform = noah(HOW.size, **SHAPE, **TIMM[augment])
    images = [Image.open(path).convert("RGB") for path in paths]
    return torch.stack([seeded(transform, image, number) for image, number in zip(images, numbers, strict=True)])


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Photographs of several sizes, a grey one among them."""
    found = []
    for index in range(COUNT):
        found.append(tmp_path / f"{index}.png")
        picture(index, 30 + index, 44 - index, channels=1 if index == 5 else 3).save(found[-1])
    return found


def samples_of(paths: list[Path], in_memory: bool | None = None) -> ImageSamples:
    return ImageSamples(paths, [index % 2 for index in range(len(paths))], HOW, in_memory=in_memory)


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("augment", TIMM)
def test_an_image_is_what_timm_makes_of_the_original_one(paths: list[Path], augment: str, in_memory: bool) -> None:
    found = samples_of(paths, in_memory).augmented(torch.arange(COUNT), augment, NUMBERS)
    assert (found.dtype, found.shape) == (torch.float32, (COUNT, 3, 16, 16))
    assert torch.equal(found, by_hand(augment, paths, NUMBERS))
    assert len({image.numpy().tobytes() for image in found}) == COUNT


@pytest.mark.parametrize("augment", ["rand-m10-n1-p1-inc1", "rand-m0-n1-p1", "rand-m10-n1-p1"])
def test_every_operation_at_its_strongest_is_timms(paths: list[Path], augment: str) -> None:
    """Posterising to no bit at all is among them, which newer Pillow refuses."""
    indices, numbers = torch.zeros(80, dtype=torch.long), list(range(80))
    found = samples_of(paths).augmented(indices, augment, numbers)
    transform = noah(HOW.size, **SHAPE, auto_augment=augment)
    image = Image.open(paths[0]).convert("RGB")
    assert torch.equal(found, torch.stack([seeded(transform, image, number) for number in numbers]))


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_flip_turns_half_of_the_plain_images_round(paths: list[Path], in_memory: bool) -> None:
    samples = samples_of(paths, in_memory)
    again = torch.arange(COUNT).repeat(40)
    plain, found = samples.inputs(again), samples.augmented(again, "flip", list(range(len(again))))
    left = torch.tensor([torch.equal(*pair) for pair in zip(found, plain, strict=True)])
    right = torch.tensor([torch.equal(*pair) for pair in zip(found, plain.flip(-1), strict=True)])
    assert bool((left ^ right).all())
    assert 0.4 < left.double().mean() < 0.6


@pytest.mark.parametrize("augment", ["flip", "crop", "randaugment"])
def test_an_image_depends_on_its_number_alone(paths: list[Path], augment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = samples_of(paths, False)
    wanted = samples.augmented(torch.arange(COUNT), augment, NUMBERS)
    order = torch.randperm(COUNT)
    for cores, batch in ((1, 5), (8, 12), (3, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        for part in order.split(batch):
            numbers = [NUMBERS[index] for index in part.tolist()]
            assert torch.equal(samples.augmented(part, augment, numbers), wanted[part])
    twice = samples.augmented(torch.tensor([3, 3, 3]), augment, [1, 2, 1])
    assert torch.equal(twice[0], twice[2])
    assert len({samples.augmented(torch.tensor([3]), augment, [i]).numpy().tobytes() for i in range(9)}) > 1


def generators() -> tuple[Any, ...]:
    numpy: Any = np.random.get_state()
    return random.getstate(), numpy[1].tobytes(), numpy[2:], torch.get_rng_state().tolist()


def test_the_global_generators_stay_as_they_were(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    reseeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", reseeded.append)
    samples = samples_of(paths)
    random.gauss(0, 1), np.random.standard_normal(), torch.randn(3)  # each of which keeps a second number
    before = generators()
    for augment in ("flip", "crop", "randaugment"):
        samples.augmented(torch.arange(COUNT), augment, NUMBERS)
        assert generators() == before
    paths[7].unlink()
    with pytest.raises(DataError, match=rf"^{re.escape(str(paths[7]))}: no such file$"):
        samples.augmented(torch.arange(COUNT), "randaugment", NUMBERS)
    assert generators() == before
    assert reseeded == []


def test_subsets_and_joined_samples_keep_images_and_numbers_together(paths: list[Path]) -> None:
    samples = samples_of(paths)
    subset = samples.subset([9, 2, 2, 4]).to("cpu")
    joined = JoinedSamples(samples.subset(range(5)), samples.subset(range(5, COUNT)))
    cases: list[tuple[Samples, list[int], list[int]]] = [
        (subset, [3, 1, 0, 2], [4, 2, 9, 2]),
        (joined, [11, 0, 7, 4, 4], [11, 0, 7, 4, 4]),
        (joined, [6, 8], [6, 8]),
        (joined, [1], [1]),
    ]
    for found, indices, meant in cases:
        numbers = NUMBERS[: len(indices)]
        wanted = by_hand("randaugment", [paths[index] for index in meant], numbers)
        assert torch.equal(found.augmented(torch.tensor(indices), "randaugment", numbers), wanted)
    for augment in ("flip", "crop"):
        assert joined.augmented(torch.tensor([], dtype=torch.long), augment, []).shape == (0, 3, 16, 16)


def test_arrays_and_images_in_memory_are_cropped_too() -> None:
    grey, colour = np.asarray(picture(0, channels=1)), picture(1)
    found = ImageSamples([grey, colour], [0, 1], HOW).augmented(torch.arange(2), "crop", [5, 6])
    transform = noah(HOW.size, **SHAPE, **TIMM["crop"])
    originals = [Image.fromarray(grey).convert("RGB"), colour]
    for image, original, number in zip(found, originals, [5, 6], strict=True):
        assert torch.equal(image, seeded(transform, original, number))


def test_the_interpolation_is_that_of_the_preprocessing(paths: list[Path]) -> None:
    how = Preprocessing(size=16, mean=HOW.mean, std=HOW.std, interpolation="bilinear")
    found = ImageSamples(paths[:1], [0], how).augmented(torch.tensor([0]), "crop", [3])
    transform = noah(16, **(SHAPE | {"interpolation": "bilinear"} | TIMM["crop"]))
    with Image.open(paths[0]) as image:
        assert torch.equal(found[0], seeded(transform, image, 3))


def test_what_is_no_image_is_refused() -> None:
    tensors = TensorSamples(torch.randn(4, 3, 16, 16), [0, 1, 0, 1])
    for samples in (tensors, tensors.subset([1]), JoinedSamples(tensors, tensors)):
        with pytest.raises(DataError, match=r"^augment=flip is for images, which these samples are not: use a"):
            samples.augmented(torch.tensor([0]), "flip", [1])


@pytest.mark.parametrize("augment", ["none", "rand", "rand-m9", "rand-n3-mstd101-p0.25-mmax12-inc0", *TIMM])
def test_names_and_notations_that_there_are(augment: str) -> None:
    check_augment(augment)
    if augment.startswith("rand-"):  # timm understands it, too
        create_transform(16, is_training=True, auto_augment=augment)


@pytest.mark.parametrize(
    "augment",
    [
        "flipp",
        "",
        "rand-",
        "rand-x9",
        "rand-m",
        "rand-m9x",
        "rand-n0",
        "rand-mstd.5",
        "rand-p0.5.1",
        "augmix-m3",
        "original",
    ],
)
def test_any_other_is_refused(augment: str) -> None:
    meant = r"; did you mean 'flip'\?" if augment == "flipp" else ""
    line = rf"^augment must be none, flip, crop, randaugment or timm's notation .*, not '{re.escape(augment)}'{meant}$"
    with pytest.raises(ConfigError, match=line):
        check_augment(augment)
