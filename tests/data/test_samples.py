import re
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import cut_short, fill, picture
from torch.utils.data import Dataset, TensorDataset

from glora.data import ImageSamples, Preprocessing, Samples, TensorSamples, as_samples
from glora.data.decoding import fits
from glora.data.samples import JoinedSamples
from glora.errors import DataError

SMALL = Preprocessing(size=16)


def images(folder: Path, count: int) -> list[Path]:
    fill(folder, count)
    return sorted(folder.iterdir())


def test_streamed_equals_in_memory(tmp_path: Path) -> None:
    paths = images(tmp_path / "with spaces", 7)
    labels = [0, 1, 2, 0, 1, 2, 0]
    kept = ImageSamples(paths, labels, SMALL, in_memory=True)
    streamed = ImageSamples([str(path) for path in paths], labels, SMALL, in_memory=False)
    indices = torch.tensor([6, 0, 3, 3])
    assert kept.inputs(indices).dtype == torch.float32
    assert torch.equal(kept.inputs(indices), streamed.inputs(indices))
    one = SMALL.normalise(SMALL.pixels(picture(6))[None])
    assert torch.equal(kept.inputs(indices)[:1], one)
    assert kept.labels.tolist() == streamed.labels.tolist() == labels


def test_in_memory_decodes_once(tmp_path: Path) -> None:
    paths = images(tmp_path / "x", 3)
    samples = ImageSamples(paths, [0, 1, 0], SMALL)
    assert samples.in_memory
    for path in paths:
        path.unlink()
    assert samples.to("cpu").inputs(torch.arange(3)).shape == (3, 3, 16, 16)


def test_memory_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = 2 * 3 * 16 * 16
    for available, expected in ((4 * needed, True), (4 * needed - 1, False)):
        monkeypatch.setattr("glora.data.samples.available_memory", lambda available=available: available)
        assert ImageSamples([picture(0), picture(1)], [0, 1], SMALL).in_memory is expected


def test_streamed_image_that_vanishes(tmp_path: Path) -> None:
    paths = images(tmp_path / "x", 2)
    samples = ImageSamples(paths, [0, 1], SMALL, in_memory=False)
    paths[1].unlink()
    with pytest.raises(DataError, match=rf"^{re.escape(str(paths[1]))}: no such file$"):
        samples.inputs(torch.tensor([0, 1]))


@pytest.mark.parametrize("in_memory", [True, False])
def test_device_is_kept(in_memory: bool) -> None:
    samples = ImageSamples([picture(0), picture(1)], [0, 1], SMALL, in_memory=in_memory)
    there = samples.to("meta")
    assert there.inputs(torch.tensor([1])).device.type == "meta"
    assert there.labels.device.type == "cpu"
    assert samples.inputs(torch.tensor([1])).device.type == "cpu"


def test_pixels_move_only_where_a_quarter_of_the_room_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = torch.zeros(100, dtype=torch.uint8)
    for free, expected in ((400, True), (399, False)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 1000))
        assert fits(pixels, torch.device("cuda")) is expected


@pytest.mark.parametrize("in_memory", [True, False])
def test_bad_images(tmp_path: Path, in_memory: bool) -> None:
    paths = images(tmp_path / "x", 4)
    cut_short(paths[1])
    paths[2].write_text("no image")
    with pytest.raises(DataError, match=r"001.png: is damaged .*; 1 more cannot be read either: mend .*--skip-bad"):
        ImageSamples(paths, [0, 1, 2, 3], SMALL, in_memory=in_memory)
    samples = ImageSamples(paths, [0, 1, 2, 3], SMALL, in_memory=in_memory, skip_bad=True)
    assert samples.kept == (0, 3)
    assert samples.labels.tolist() == [0, 3]
    assert [path for path, _ in samples.skipped] == [str(paths[1]), str(paths[2])]
    assert samples.skipped[1][1].startswith("is no image")
    expected = torch.stack([SMALL.pixels(picture(seed)) for seed in (0, 3)])
    assert torch.equal(samples.inputs(torch.arange(2)), SMALL.normalise(expected))
    with pytest.raises(DataError, match="none of 2 images can be read, the first"):
        ImageSamples(paths[1:3], [0, 1], SMALL, skip_bad=True)


def test_arrays() -> None:
    grey, colour = np.asarray(picture(0, channels=1)), np.asarray(picture(1))
    found = ImageSamples([grey, colour], torch.tensor([0, 1]), SMALL).inputs(torch.tensor([0, 1]))
    assert torch.equal(found[1:], SMALL.normalise(SMALL.pixels(picture(1))[None]))
    with pytest.raises(DataError, match="image 1: is neither a path nor a PIL image nor a uint8 array"):
        ImageSamples([grey, colour / 255], [0, 1], SMALL)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 2], "2 inputs but 3 labels"),
        ([0.0, 1.0], "labels are whole numbers"),
        ([True, False], "labels are whole numbers"),
        ([[0], [1]], "labels are whole numbers"),
        ([0, -1], "labels count from 0: label -1 of sample 1"),
        (["cat", "dog"], "labels are whole numbers"),
    ],
)
def test_bad_labels(labels: list, message: str) -> None:
    with pytest.raises(DataError, match=message):
        TensorSamples(torch.zeros(2, 3), labels)


def test_tensor_samples() -> None:
    inputs, labels = torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 0], dtype=torch.int32)
    samples = TensorSamples(inputs, labels).to("cpu")
    assert samples.labels.dtype == torch.int64
    assert len(samples) == 5
    assert torch.equal(samples.inputs(torch.tensor([4, 1])), inputs[[4, 1]])
    with pytest.raises(DataError, match="one floating-point tensor"):
        TensorSamples(torch.zeros(2, 3, dtype=torch.long), [0, 1])


def test_subset() -> None:
    inputs = torch.arange(5.0)
    samples = TensorSamples(inputs, [0, 1, 2, 3, 4]).subset([3, 1, 1]).subset(torch.tensor([2, 0])).to("cpu")
    assert samples.labels.tolist() == [1, 3]
    assert samples.inputs(torch.tensor([1, 0])).tolist() == [3, 1]
    with pytest.raises(DataError, match="indices 0 to 2 of 2 samples: out of range"):
        samples.subset([0, 2])


def test_joined() -> None:
    first, second = (TensorSamples(torch.arange(3.0) + 10 * i, [i] * 3) for i in range(2))
    joined = JoinedSamples(first, second).to("cpu")
    assert joined.labels.tolist() == [0, 0, 0, 1, 1, 1]
    for indices in ([5, 0, 3, 2, 2], [0, 1], [4], []):
        expected = [10 * (index // 3) + index % 3 for index in indices]
        assert joined.inputs(torch.tensor(indices, dtype=torch.long)).tolist() == expected


class Items(Dataset):
    def __init__(self, items: list) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> object:
        return self.items[index]


def test_as_samples() -> None:
    inputs, labels = torch.randn(4, 3), torch.tensor([0, 1, 1, 0])
    samples = TensorSamples(inputs, labels)
    assert as_samples(samples) is samples
    pairs = [(row, int(label)) for row, label in zip(inputs, labels, strict=True)]
    for source in ((inputs, labels), [inputs, labels], TensorDataset(inputs, labels), Items(pairs)):
        found = as_samples(source)
        assert isinstance(found, Samples)
        assert torch.equal(found.inputs(torch.arange(4)), inputs)
        assert torch.equal(found.labels, labels)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (3, "data of type int: give Samples"),
        (Items([]), "the data set is empty"),
        (Items([(torch.zeros(2), 0), torch.zeros(2)]), r"item 1 is no pair \(tensor, label\)"),
        (Items([(torch.zeros(2), 0), (torch.zeros(3), 0)]), r"item 1 has shape \(3,\), item 0 has \(2,\)"),
        (Items([(torch.zeros(2), 0.5)]), "item 0: label 0.5 is no whole number"),
        (Items([(torch.zeros(2), "cat")]), "item 0: label 'cat' is no whole number"),
        (Items([(torch.zeros(2, dtype=torch.int32), 0)]), "one floating-point tensor"),
    ],
)
def test_as_samples_refuses(source: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        as_samples(source)


def test_digests_tell_every_image_every_label_and_the_order_apart(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(12)]
    for i, path in enumerate(paths):
        picture(i).save(path)
    labels = [i % 2 for i in range(12)]
    for in_memory in (True, False):
        samples = ImageSamples(paths, labels, SMALL, in_memory=in_memory)
        same = ImageSamples(paths, labels, SMALL, in_memory=in_memory)
        before = samples.digest()
        assert before == same.digest()
        picture(99).resize((50, 40)).save(paths[-1])
        assert ImageSamples(paths, labels, SMALL, in_memory=in_memory).digest() != before
        picture(11).save(paths[-1])
        others = [ImageSamples(paths, [*labels[:-1], 0], SMALL, in_memory=in_memory), samples.subset([1, 0])]
        others += [samples.subset([0, 1]), JoinedSamples(samples, same), JoinedSamples(samples, samples.subset([3]))]
        assert len({other.digest() for other in [samples, *others]}) == 6
    inputs = torch.randn(5, 3)
    digests = {TensorSamples(inputs, [0, 1, 2, 3, 4]).digest(), TensorSamples(-inputs, [0, 1, 2, 3, 4]).digest()}
    assert len(digests) == 2
