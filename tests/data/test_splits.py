import random
from collections import Counter

import pytest

from glora.data import digest, stratified_split
from glora.errors import DataError


def counts(labels: list[int], part: tuple[int, ...]) -> Counter[int]:
    return Counter(labels[position] for position in part)


def test_every_sample_is_in_one_part_and_every_class_in_each() -> None:
    generator = random.Random(0)
    for trial in range(50):
        labels = [label for label in range(generator.randint(2, 9)) for _ in range(generator.randint(3, 40))]
        generator.shuffle(labels)
        parts = stratified_split(labels, [0.6, 0.2, 0.2], trial)
        assert sorted(position for part in parts for position in part) == list(range(len(labels)))
        assert all(set(counts(labels, part)) == set(labels) for part in parts)
        assert all(list(part) == sorted(part) for part in parts)


def test_shares_are_even() -> None:
    labels = [0] * 50 + [1] * 100 + [2] * 150
    train, val = stratified_split(labels, [0.8, 0.2])
    assert counts(labels, train) == {0: 40, 1: 80, 2: 120}
    assert counts(labels, val) == {0: 10, 1: 20, 2: 30}


def test_small_classes_fill_the_first_parts() -> None:
    labels = [0] * 2 + [1] * 10
    train, val, test = stratified_split(labels, [0.6, 0.2, 0.2])
    assert [counts(labels, part)[0] for part in (train, val, test)] == [1, 1, 0]


def test_counts_are_met_exactly() -> None:
    labels = [index % 10 for index in range(1797)]
    parts = stratified_split(labels, (800, 200, 797), 3)
    assert [len(part) for part in parts] == [800, 200, 797]
    assert all(max(found.values()) - min(found.values()) <= 2 for found in (counts(labels, part) for part in parts))
    few = stratified_split(labels, (1794, 3))
    assert [len(part) for part in few] == [1794, 3]


def test_split_is_pinned_by_its_seed() -> None:
    labels = [0] * 6 + [1] * 6
    assert stratified_split(labels, [0.5, 0.5], 1) == stratified_split(labels, [0.5, 0.5], 1)
    assert stratified_split(labels, [0.5, 0.5], 1) != stratified_split(labels, [0.5, 0.5], 2)
    # fixed values: another version of Python must not split another way
    assert stratified_split(labels, [0.5, 0.5], 0) == ((1, 2, 3, 6, 9, 11), (0, 4, 5, 7, 8, 10))


def test_class_with_one_image() -> None:
    message = r"class 'cat' has one image \(pets/cat/a b.jpg\): a split needs at least two"
    with pytest.raises(DataError, match=message):
        stratified_split([1, 0, 1], [0.8, 0.2], classes=["cat", "dog"], files=["x", "pets/cat/a b.jpg", "y"])


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([0.5, 0.4], r"fractions sum to 1, not to 0\.9"),
        ([1.5, -0.5], "each must be above 0"),
        ([], "each must be above 0"),
        ([3, 2], r"hold 5 samples, not 4"),
        ([1, 3], "a part of 3 leaves too few samples of each of 2 classes"),
    ],
)
def test_parts_that_do_not_add_up(parts: list[float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        stratified_split([0, 0, 1, 1], parts)


def test_digest() -> None:
    rows = [("a/1.jpg", 0, "train"), ("b/ü.jpg", 1, "val"), ("b/\udcff.jpg", 1, "train")]
    found = digest(rows)
    assert len(found) == 16
    assert digest(reversed(rows)) == found
    for index, value in enumerate(("a/2.jpg", 1, "val")):
        changed = list(rows[0])
        changed[index] = value
        assert digest([tuple(changed), *rows[1:]]) != found
