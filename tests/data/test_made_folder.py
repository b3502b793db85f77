"""Folders of made data: layout, sameness, and what stands in the way."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from made_sets import fashion_folder, small_splits
from PIL import Image

import glora.data
from glora.data import Preprocessing, open_data
from glora.data.made import MADE, MadeSet, made_set, make_data
from glora.data.vtab import list_vtab
from glora.errors import ConfigError, DataError
from glora.files import locked

SIDES = {"dsprites": 64, "digits": 8, "fashion": 28}
CASES = [(split, index) for split in ("train800", "val200", "test") for index in (0, 7)]
DRAWN = [name for name in MADE if name not in ("digits", "fashion")]

# Of the pixels and labels of CASES with seed 0: another value means other images, which wants a higher ``version``.
DIGESTS = {
    "dsprites_loc": "2cb59a75e34b5c12",
    "dsprites_ori": "3888c6f3cfcb8cd4",
    "scene_count": "43b378abd5a81865",
    "scene_distance": "c4cf3c9647dd374b",
    "object_azimuth": "6431ea8bbed7f621",
    "object_elevation": "9daf7a59cc41454b",
    "textures": "f2799d1f588a4eef",
}

# Bare packages stand in for the root, which imports torch.
WITHOUT_TORCH = f"""
import sys, types
for name, path in ("glora", {str(Path(glora.__file__).parent)!r}), ("glora.data", {glora.data.__path__[0]!r}):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [path]
"""

every = pytest.mark.parametrize("name", list(MADE))
drawn = pytest.mark.parametrize("name", DRAWN)


@pytest.fixture(autouse=True)
def _fashion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glora.data.made.copied.FASHION_FOLDER", fashion_folder(tmp_path / "debian"))


def fingerprint(made: MadeSet) -> str:
    found = hashlib.sha256()
    for split, index in CASES:
        pixels, label = made.sample(0, split, index)
        found.update(pixels.tobytes() + bytes([label]))
    return found.hexdigest()[:16]


def contents(root: Path, split: str) -> list[tuple[bytes, int]]:
    """File contents and labels of a list, read without the package."""
    lines = [line.split() for line in (root / f"{split}.txt").read_text().splitlines()]
    assert [name for name, _ in lines] == [f"images/{split}/{index:06d}.png" for index in range(len(lines))]
    return [((root / name).read_bytes(), int(label)) for name, label in lines]


# Single images


@every
def test_images(name: str) -> None:
    made = made_set(name)
    side = SIDES.get(name.split("_")[0], 96)
    for split, index in CASES:
        pixels, label = made.sample(0, split, index)
        again, same = made.sample(0, split, index)
        assert pixels.dtype == np.uint8
        assert pixels.shape in ((side, side), (side, side, 3))
        assert 0 <= label < len(made.classes)
        assert np.array_equal(pixels, again)
        assert label == same
    images = {made.sample(seed, split, 3)[0].tobytes() for seed in (0, 1) for split in ("train800", "val200", "test")}
    assert len(images) == 6
    assert made.name == name
    assert made.label
    assert len(set(made.classes)) == len(made.classes) == MADE_CLASSES[name]


MADE_CLASSES = {
    "dsprites_loc": 16,
    "dsprites_ori": 16,
    "scene_count": 8,
    "scene_distance": 6,
    "object_azimuth": 18,
    "object_elevation": 9,
    "textures": 20,
    "digits": 10,
    "fashion": 10,
}


@pytest.mark.parametrize("name", ["scene_count", "object_azimuth", "object_elevation", "textures"])
def test_balanced_classes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, drawing in (("scenes", "draw_scene"), ("objects", "draw_object"), ("textures", "draw_texture")):
        monkeypatch.setattr(f"glora.data.made.{module}.{drawing}", lambda *_: (None, np.zeros((1, 1, 3)), None))
    monkeypatch.setattr("glora.data.made.objects._grey", lambda picture: picture)
    made = MADE[name]
    for split, size in (("train800", 800), ("val200", 200), ("test", 2000)):
        labels = [made.sample(0, split, index)[1] for index in range(size)]
        counts = Counter(labels)
        assert len(counts) == len(made.classes)
        assert max(counts.values()) - min(counts.values()) <= 1
        assert labels != [made.sample(1, split, index)[1] for index in range(size)]
        assert labels[: len(counts)] != labels[len(counts) : 2 * len(counts)]


@drawn
def test_pixels_are_those_of_every_machine(name: str) -> None:
    assert fingerprint(MADE[name]) == DIGESTS[name]


def test_a_new_process_draws_the_same(environment: dict[str, str]) -> None:
    """In other order, on more threads of linear algebra, and without torch."""
    code = f"""{WITHOUT_TORCH}
import hashlib
from glora.data.made import MADE
assert "torch" not in sys.modules
for name in {DRAWN[::-1]}:
    rows = {{case: MADE[name].sample(0, *case) for case in {CASES[::-1]}}}
    found = hashlib.sha256(b"".join(rows[case][0].tobytes() + bytes([rows[case][1]]) for case in {CASES}))
    print(name, found.hexdigest()[:16])
"""
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, env={**environment, "OMP_NUM_THREADS": "2"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert dict(line.split() for line in done.stdout.splitlines()) == {name: fingerprint(MADE[name]) for name in DRAWN}


# Folders


@every
def test_a_folder_in_the_layout_of_vtab(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_splits(monkeypatch, 30, 20)
    root = tmp_path / f"my {name}"
    told: list[tuple[int, int]] = []
    made = make_data(name, root, seed=4, test=10, tell=lambda done, total: told.append((done, total)))
    assert (made.new, made.folder) == (True, root)
    assert told[-1] == (60, 60)
    assert {path.name for path in root.iterdir()} == {
        "images",
        "made.json",
        *(f"{split}.txt" for split in ("train800", "val200", "train800val200", "test")),
    }
    listing = list_vtab(root)
    assert [len(part) for part in (listing.train, listing.val, listing.test or ())] == [30, 20, 10]
    train, val, both, test = (contents(root, split) for split in ("train800", "val200", "train800val200", "test"))
    assert sorted(both) == sorted(train + val)
    assert both != train + val
    assert len({content for content, _ in train + val + test}) == 60
    for split, rows in (("train800", train), ("val200", val), ("test", test)):
        for index in (0, len(rows) - 1):
            pixels, label = MADE[name].sample(4, split, index)
            with Image.open(root / "images" / split / f"{index:06d}.png") as image:
                assert image.format == "PNG"
                assert np.array_equal(np.asarray(image), pixels)
            assert rows[index][1] == label
    assert json.loads((root / "made.json").read_text()) == {
        "name": name,
        "seed": 4,
        "sizes": {"train800": 30, "val200": 20, "train800val200": 50, "test": 10},
        "generator": MADE[name].version,
        "label": MADE[name].label,
        "classes": list(MADE[name].classes),
    }


def test_a_whole_set(tmp_path: Path) -> None:
    root = tmp_path / "sprites"
    made = make_data("dsprites_loc", root, test=150)
    assert made.info["sizes"] == {"train800": 800, "val200": 200, "train800val200": 1000, "test": 150}
    data = open_data(root, Preprocessing(size=16))
    assert [len(part) for part in (data.train, data.val, data.test or ())] == [800, 200, 150]
    assert len(data.classes) == 16
    assert data.train.labels.tolist() == [label for _, label in contents(root, "train800")]
    again = make_data("dsprites_loc", tmp_path / "again", test=150)
    files = sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())
    assert len(files) == 2150 + 5
    assert all((root / file).read_bytes() == (again.folder / file).read_bytes() for file in files)


def test_the_number_of_threads_makes_no_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_splits(monkeypatch, 20, 10)
    found = []
    for threads in (1, 4):
        monkeypatch.setattr(os, "cpu_count", lambda threads=threads: threads)
        root = make_data("textures", tmp_path / str(threads), test=10).folder
        found.append({path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()})
    assert found[0] == found[1]


def test_more_test_images_begin_with_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_splits(monkeypatch, 4, 2)
    few, many = (make_data("object_azimuth", tmp_path / str(test), test=test).folder for test in (3, 9))
    assert contents(many, "test")[:3] == contents(few, "test")
    assert contents(many, "train800val200") == contents(few, "train800val200")


def test_made_again_it_is_there_already(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_splits(monkeypatch, 4, 2)
    root = tmp_path / "x"
    assert make_data("dsprites_ori", root, seed=2, test=3).new
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    again = make_data("dsprites_ori", root, seed=2, test=3)
    assert not again.new
    assert again.info == json.loads((root / "made.json").read_text())
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_an_empty_folder_may_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_splits(monkeypatch, 4, 2)
    (tmp_path / "x").mkdir()
    assert make_data("dsprites_ori", tmp_path / "x", test=3).new
    assert make_data("dsprites_ori", tmp_path / "a" / "deep" / "er", test=3).new
    monkeypatch.chdir(tmp_path)
    assert make_data("dsprites_ori", "y", test=3).new
    assert list_vtab("y").name == "y"


# What stands in the way


def refused(message: str, name: str, root: Path, **settings: int) -> None:
    before = sorted(root.parent.rglob("*"))
    with pytest.raises(DataError, match=message) as caught:
        make_data(name, root, **settings)
    assert "\n" not in str(caught.value)
    assert sorted(root.parent.rglob("*")) == before


def test_words_and_numbers_that_do_not_exist(tmp_path: Path) -> None:
    root = tmp_path / "x"
    refused(r"no data set 'cats' can be made: there are dsprites_loc, .*, fashion$", "cats", root)
    refused(r"no data set 'texture' can be made: there are .*; did you mean 'textures'\?", "texture", root)
    refused("the seed of a data set is 0 or more, not -1", "textures", root, seed=-1)
    refused("textures has 1 to 100,000 test images, not 0", "textures", root, test=0)
    refused("digits has 1 to 797 test images, not 798", "digits", root, test=798)
    refused("dsprites_loc has 1 to 736,280 test images, not 1,000,000", "dsprites_loc", root, test=1_000_000)


def test_folders_that_hold_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_splits(monkeypatch, 4, 2)
    root = tmp_path / "x"
    root.mkdir()
    (root / "thesis.tex").write_text("years of work")
    refused(r"x: holds something else: give a folder that is new or empty$", "dsprites_loc", root)
    refused(r"thesis.tex: is a file: give a folder that is new or empty$", "dsprites_loc", root / "thesis.tex")
    refused(r"y: cannot be written \(.*thesis.tex", "dsprites_loc", root / "thesis.tex" / "y")


def test_folders_with_other_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_splits(monkeypatch, 4, 2)
    root = tmp_path / "x"
    make_data("dsprites_loc", root, test=3)
    mend = "remove it, or give another folder$"
    refused(rf"x: holds dsprites_loc with another seed \(0, now 1\): {mend}", "dsprites_loc", root, seed=1, test=3)
    refused(rf"another sizes \(3 test images, now 5 test images\): {mend}", "dsprites_loc", root, test=5)
    refused(r"x: holds dsprites_loc with another name \('dsprites_loc', now 'textures'\)", "textures", root, test=3)
    monkeypatch.setattr(MADE["dsprites_loc"], "version", 2)
    refused(r"holds dsprites_loc with another generator \(1, now 2\)", "dsprites_loc", root, test=3)


def test_folders_that_have_been_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_splits(monkeypatch, 4, 2)
    root = tmp_path / "x"
    make_data("dsprites_loc", root, test=3)
    (root / "images" / "test" / "000001.png").unlink()
    message = r"test.txt, line 2: .*000001.png: no such file: .*x has been changed since it was made: remove it"
    refused(message, "dsprites_loc", root, test=3)
    (root / "made.json").write_text("{")
    refused(r"made.json: is damaged \(.*\): remove the folder, or give another one$", "dsprites_loc", root, test=3)
    (root / "made.json").write_text("[]")
    refused(r"made.json: is damaged", "dsprites_loc", root, test=3)


def test_a_name_that_vtab_has_numbers_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_splits(monkeypatch, 4, 2)
    root = tmp_path / "dsprites_loc"
    make_data("dsprites_loc", root, test=3)
    listing = list_vtab(root)
    assert listing.test is not None
    assert [len(part.names) for part in (listing.train, listing.val, listing.test)] == [4, 2, 3]
    # Without the note it is taken for VTAB-1k's own, which has other numbers.
    (root / "made.json").unlink()
    with pytest.raises(DataError, match=r"train800.txt, line 4: ends after 4 images, 800 are needed"):
        list_vtab(root)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_nothing_is_left_if_it_is_stopped(error: type[BaseException], tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        assert any((tmp_path / "out").iterdir())
        raise error("stopped")

    with pytest.raises(error, match="stopped"):
        make_data("dsprites_loc", tmp_path / "out" / "x", test=3, tell=stop)
    assert list((tmp_path / "out").iterdir()) == []


def test_two_processes_do_not_make_the_same_folder(tmp_path: Path) -> None:
    (tmp_path / ".x.tmp").mkdir()
    with locked(tmp_path / ".x.tmp"), pytest.raises(ConfigError, match="another glora is at work in this folder"):
        make_data("dsprites_loc", tmp_path / "x", test=3)
    assert [path.name for path in tmp_path.joinpath(".x.tmp").iterdir()] == [".lock"]


def test_what_a_killed_process_leaves_is_overwritten(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = f"""{WITHOUT_TORCH}
from glora.data.made import make_data
make_data("textures", {str(tmp_path / "out" / "x")!r})
"""
    process = subprocess.Popen([sys.executable, "-c", code], env=environment)
    until = time.monotonic() + 60
    while not list(tmp_path.glob("out/.x.tmp/images/train800/*.png")) and time.monotonic() < until:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "out" / "x").exists()
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".x.tmp"]
    small_splits(monkeypatch, 4, 2)
    make_data("dsprites_loc", tmp_path / "out" / "x", test=3)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["x"]
    assert len(list((tmp_path / "out" / "x").rglob("*.png"))) == 15
    assert not list((tmp_path / "out" / "x").rglob(".*"))
