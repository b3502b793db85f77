import re
from pathlib import Path

import pytest
import torch
from pictures import bomb, cut_short, fill, picture

from glora.data import Preprocessing, digest, has_splits, images_in, list_whole, open_data
from glora.errors import DataError

SMALL = Preprocessing(size=8)


def unsplit(root: Path, counts: dict[str, int]) -> Path:
    for seed, (name, count) in enumerate(counts.items()):
        fill(root / name, count, seed)
    return root


def split(root: Path, parts: tuple[str, ...] = ("train", "val", "test"), classes: tuple[str, ...] = ("a", "b")) -> Path:
    for seed, part in enumerate(parts):
        for number, name in enumerate(classes):
            fill(root / part / name, 5, 10 * seed + number)
    return root


def test_unsplit_folder(tmp_path: Path) -> None:
    root = unsplit(tmp_path / "my pets", {"tabby cat": 10, "hündin": 15, "Ωmega": 5})
    data = open_data(root, SMALL)
    assert data.name == "my pets"
    assert data.classes == ("hündin", "tabby cat", "Ωmega")
    assert data.test is not None
    assert [len(part) for part in (data.train, data.val, data.test)] == [18, 6, 6]
    assert data.val.labels.bincount().tolist() == [3, 2, 1]
    assert data.layout == "DIR/<class>/*; cut off by seed 0: val 20 % and test 20 %"
    assert data.summary() == {
        "name": "my pets",
        "classes": list(data.classes),
        "train": 18,
        "val": 6,
        "test": 6,
        "digest": data.digest,
        "layout": data.layout,
        "skipped": 0,
    }
    everything = {tuple(row.flatten().tolist()) for part in (data.train_val, data.test) for row in rows(part)}
    assert len(everything) == 30


def rows(samples) -> torch.Tensor:
    return samples.inputs(torch.arange(len(samples)))


def test_same_split_every_time(tmp_path: Path) -> None:
    root = unsplit(tmp_path / "x", {"a": 10, "b": 10})
    first, again, other = (open_data(root, SMALL, seed=seed) for seed in (1, 1, 2))
    assert first.digest == again.digest != other.digest
    assert torch.equal(rows(first.train), rows(again.train))
    (root / "a" / "000.png").rename(root / "b" / "zzz.png")
    assert open_data(root, SMALL, seed=1).digest != first.digest


def test_digest_follows_from_paths_labels_and_parts(tmp_path: Path) -> None:
    root = split(tmp_path / "x", ("train", "val"))
    rows = [
        (f"{part}/{name}/{index:03d}.png", label, part)
        for part in ("train", "val")
        for label, name in enumerate("ab")
        for index in range(5)
    ]
    assert open_data(root, SMALL).digest == digest(rows)


@pytest.mark.parametrize("val", ["val", "validation", "valid", "Val"])
def test_split_folder(tmp_path: Path, val: str) -> None:
    data = open_data(split(tmp_path / "x", ("train", val, "test")), SMALL)
    assert data.layout == "DIR/{train,val,test}/<class>/*"
    assert data.summary()["test"] == 10
    assert data.train.labels.tolist() == [0] * 5 + [1] * 5
    assert torch.equal(rows(data.val)[0], SMALL.normalise(SMALL.pixels(picture(10_000))[None])[0])


def test_parts_that_are_missing(tmp_path: Path) -> None:
    data = open_data(split(tmp_path / "x", ("train",)), SMALL, seed=4)
    assert data.test is None
    assert data.test_size is None
    assert (len(data.train), len(data.val)) == (8, 2)
    assert data.layout == "DIR/{train}/<class>/*; cut off by seed 4: val 20 %; no test images"
    data = open_data(split(tmp_path / "y", ("train", "test")), SMALL)
    assert (len(data.train), len(data.val), data.test_size) == (8, 2, 10)
    data = open_data(unsplit(tmp_path / "z", {"a": 5, "b": 5}), SMALL, test_fraction=0)
    assert (len(data.train), len(data.val), data.test) == (8, 2, None)


def test_what_is_passed_over_and_what_is_found(tmp_path: Path) -> None:
    root = unsplit(tmp_path / "x", {"a": 5, "b": 5})
    fill(root / "a" / "deeper" / "still", 2, 9, ".JPG")
    (root / "a" / "deeper" / "loop").symlink_to(root / "a")
    (root / ".hidden").mkdir()
    (root / "b" / ".x.jpg").write_text("hidden")
    (root / "b" / "notes.txt").write_text("no image")
    (root / "README").write_text("no image")
    data = open_data(root, SMALL)
    assert data.classes == ("a", "b")
    assert len(data.train) + len(data.val) + (data.test_size or 0) == 12
    assert not data.skipped


def test_classes_called_train_and_test(tmp_path: Path) -> None:
    data = open_data(unsplit(tmp_path / "x", {"bus": 5, "train": 5, "test": 5}), SMALL)
    assert data.classes == ("bus", "test", "train")


def test_test_images_are_not_decoded_before_they_are_asked_for(tmp_path: Path) -> None:
    root = split(tmp_path / "x")
    cut_short(root / "test" / "a" / "000.png")
    data = open_data(root, SMALL)
    assert data.summary()["test"] == 10
    with pytest.raises(DataError, match=r"test.a.000.png: is damaged or cut short"):
        _ = data.test
    data = open_data(root, SMALL, skip_bad=True)
    before = data.digest
    assert data.test is data.test is not None
    assert data.summary()["test"] == len(data.test) == 9
    assert data.summary()["skipped"] == 1
    assert data.digest == before


def test_skip_bad(tmp_path: Path) -> None:
    root = unsplit(tmp_path / "x", {"a": 10, "b": 10})
    (root / "a" / "text.jpg").write_text("no image")
    (root / "a" / "apple.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    (root / "b" / "empty.jpg").touch()
    bomb(root / "b" / "bomb.png", 25_000, 20_000)
    picture(0).save(root / "loose.png")
    cut_short(root / "b" / "000.png")
    with pytest.raises(DataError, match=r"loose.png: lies in no class folder: move it.*--skip-bad"):
        open_data(root, SMALL)
    (root / "loose.png").unlink()
    with pytest.raises(DataError, match=r"apple.heic: is no image that can be read .*: mend or remove it.*--skip-bad"):
        open_data(root, SMALL)
    data = open_data(root, SMALL, skip_bad=True)
    assert data.test is not None
    assert len(data.train) + len(data.val) + len(data.test) == 19
    reasons = {Path(path).name: reason for path, reason in data.skipped}
    assert set(reasons) == {"text.jpg", "apple.heic", "empty.jpg", "bomb.png", "000.png"}
    assert reasons["bomb.png"] == "500 megapixels (limit 179): make the image smaller"
    assert reasons["000.png"].startswith("is damaged or cut short")


def test_class_that_loses_all_images(tmp_path: Path) -> None:
    root = split(tmp_path / "x", ("train", "val"))
    for path in (root / "train" / "b").iterdir():
        cut_short(path)
    with pytest.raises(DataError, match="class 'b' of x has no training image that can be read"):
        open_data(root, SMALL, skip_bad=True)
    for path in (root / "train" / "b").iterdir():
        path.write_text("no image")
    with pytest.raises(DataError, match=r"train.b: none of its 5 images can be read: add some"):
        open_data(root, SMALL, skip_bad=True)


def fails(root: Path, message: str, **options: float) -> None:
    with pytest.raises(DataError, match=message) as caught:
        open_data(root, SMALL, **options)
    assert "\n" not in str(caught.value)


def test_folders_that_will_not_do(tmp_path: Path) -> None:
    fails(tmp_path / "nowhere", r"nowhere: no such folder$")
    (tmp_path / "file").touch()
    fails(tmp_path / "file", r"file: is no folder$")
    empty = tmp_path / "empty"
    empty.mkdir()
    fails(empty, r"empty: holds no class folders: sort the images into .*empty/<class>/")
    picture(0).save(empty / "x.png")
    fails(empty, "empty: holds images but no class folders: sort")
    fails(unsplit(tmp_path / "one", {"a": 3}), r"one: has one class only \('a'\): two or more")
    hollow = unsplit(tmp_path / "hollow", {"a": 3})
    (hollow / "b").mkdir()
    (hollow / "b" / "x.txt").touch()
    fails(hollow, r"hollow.b: holds no images: add some, or remove the folder")
    single = unsplit(tmp_path / "single", {"a": 3, "b": 1})
    fails(
        single, rf"class 'b' has one image \({re.escape(str(single / 'b' / '000.png'))}\): a split needs at least two"
    )
    fails(
        unsplit(tmp_path / "x", {"a": 3, "b": 3}),
        "val_fraction 0.6 and test_fraction 0.4",
        val_fraction=0.6,
        test_fraction=0.4,
    )


def test_splits_that_do_not_agree(tmp_path: Path) -> None:
    root = split(tmp_path / "more")
    fill(root / "val" / "c", 2)
    fails(root, r"val.c: class 'c' has no folder in train")
    fails(split(tmp_path / "no train", ("val", "test")), "has test, val but no folder train")
    fails(split(tmp_path / "twice", ("train", "val", "valid")), "val and valid mean the same")
    root = split(tmp_path / "beside")
    fill(root / "annotations", 1)
    fails(root, r"annotations: stands beside train/ but is none of train, val, test")
    root = unsplit(tmp_path / "mixed", {"a": 3, "b": 3})
    fill(root / "test" / "a", 3)
    fails(root, r"mixed: has class 'a' both in test/ and beside it")
    for part in ("train", "val"):
        fill(tmp_path / "flat" / part, 2)
    fails(tmp_path / "flat", r"train: holds no class folders: sort the images into train/<class>/")
    root = split(tmp_path / "hollow", ("train",))
    (root / "val" / "a").mkdir(parents=True)
    fails(root, r"val: holds no images in class folders")


# has_splits, list_whole, images_in


def test_whether_a_folder_has_splits(tmp_path: Path) -> None:
    assert has_splits(split(tmp_path / "a"))
    assert has_splits(split(tmp_path / "b", ("train",)))
    assert not has_splits(unsplit(tmp_path / "c", {"a": 2, "b": 2}))
    assert not has_splits(unsplit(tmp_path / "d", {"train": 2, "test": 2, "bus": 2}))
    assert not has_splits(tmp_path / "nowhere")
    assert not has_splits(tmp_path / "a" / "train" / "a" / "000.png")


def test_an_empty_folder_has_no_splits(tmp_path: Path) -> None:
    assert not has_splits(tmp_path)


def test_a_whole_folder_in_order_with_single_images_too(tmp_path: Path) -> None:
    root = unsplit(tmp_path / "x", {"b": 3, "a": 1})
    fill(root / "b" / "deeper", 2, 5)
    (root / "b" / "notes.txt").write_text("no image")
    listing = list_whole(root)
    classes, part = listing.classes, listing.train
    assert classes == ("a", "b")
    assert part.labels == (0, 1, 1, 1, 1, 1)
    assert part.names == ("a/000.png", "b/000.png", "b/001.png", "b/002.png", "b/deeper/000.png", "b/deeper/001.png")
    assert part.images == tuple(root / name for name in part.names)


def test_a_whole_folder_may_have_a_class_without_images(tmp_path: Path) -> None:
    root = unsplit(tmp_path / "x", {"a": 2})
    (root / "empty").mkdir()
    listing = list_whole(root)
    classes, part = listing.classes, listing.train
    assert (classes, part.labels) == (("a", "empty"), (0, 0))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", r"nowhere: no such folder$"),
        ("file", r"file: is no folder$"),
        ("empty", r"empty: holds no class folders: sort the images into .*empty/<class>/$"),
        ("hollow", r"hollow: holds no images in class folders: add some, or remove the folder$"),
        ("text", r"a.x.png: is no image that can be read .*: mend or remove it, or go on without it \(--skip-bad\)$"),
        ("loose", r"loose.x.png: lies in no class folder: move it, or go on without it \(--skip-bad\)$"),
    ],
)
def test_whole_folders_that_will_not_do(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "hollow" / "a").mkdir(parents=True)
    fill(tmp_path / "text" / "a", 2)
    (tmp_path / "text" / "a" / "x.png").write_text("no image")
    fill(tmp_path / "loose" / "a", 2)
    picture(0).save(tmp_path / "loose" / "x.png")
    with pytest.raises(DataError, match=message):
        list_whole(tmp_path / name)


def test_a_whole_folder_without_its_bad_files(tmp_path: Path) -> None:
    root = unsplit(tmp_path / "x", {"a": 2, "b": 1})
    (root / "a" / "x.png").write_text("no image")
    picture(0).save(root / "loose.png")
    listing = list_whole(root, skip_bad=True)
    classes, part = listing.classes, listing.train
    assert (classes, part.names) == (("a", "b"), ("a/000.png", "a/001.png", "b/000.png"))


def test_images_below_a_folder(tmp_path: Path) -> None:
    fill(tmp_path / "b", 2)
    fill(tmp_path / "a" / "deep", 1, 1, ".JPG")
    fill(tmp_path / ".hidden", 1)
    picture(0).save(tmp_path / "c.png")
    (tmp_path / "c.txt").touch()
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    found = [path.relative_to(tmp_path).as_posix() for path in images_in(tmp_path)]
    assert found == ["a/deep/000.JPG", "b/000.png", "b/001.png", "c.png"]
