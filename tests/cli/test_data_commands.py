"""``glora data``: making, checking and listing, from the words to the exit code."""

from __future__ import annotations

import inspect
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

from data.made_sets import small_splits
from data.pictures import bomb, cut_short
from glora.cli.data_commands import DATA_COMMANDS
from glora.data import Preprocessing, open_data
from glora.data.made import MADE
from protocols.miniatures import change, vtab
from small_run import Outcome, call, fields_of, flags, names_in, paint, paint_split, succeed, timm_settings


def refused(done: Outcome, message: str) -> None:
    assert done.code == 2, done.err
    assert done.out == ""
    (line,) = done.err.splitlines()
    assert re.search(message, line), line


@pytest.fixture
def sprites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of 36 + 12 + 12 sprites."""
    small_splits(monkeypatch, 36, 12)
    succeed("data", "make", "dsprites_loc", tmp_path / "sprites", "--test=12")
    return tmp_path / "sprites"


# Help and words


def test_help() -> None:
    done = call("data", "--help")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("usage: glora data COMMAND ...")
    for name, command in DATA_COMMANDS.items():
        own = call("data", name, "--help")
        assert (own.code, own.err) == (0, "")
        assert own.out.startswith(f"usage: glora data {name} ")
        shown = " ".join(own.out.split())
        assert " ".join((inspect.getdoc(command) or "").split("\n\nArgs:")[0].split()) in shown
        assert " ".join((inspect.getdoc(command) or "").split("\n")[0].split()) in " ".join(done.out.split())
        for line in (inspect.getdoc(command) or "").split("Args:")[1].splitlines():
            assert line.strip().partition(": ")[2].rstrip(".") in shown
    assert "Make a data set that needs no download" in " ".join(call("--help").out.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["data", "bake"],
            r"invalid choice: 'bake' \(choose from 'make', .*'shift'\).*see glora data --help",
        ),
        (["data", "make"], "(?i)glora.*name.*(needed|required)|required.*name"),
        (["data", "make", "textures"], "(?i)dir is needed|required: .*dir"),
        (["data", "make", "textures", "x", "--test=many"], "test.*many"),
        (["data", "make", "textures", "x", "--tests=3"], "unrecognized arguments: --tests=3"),
        (
            ["data", "make", "texture", "x"],
            "^glora: no data set 'texture' can be made: .*; did you mean 'textures'",
        ),
        (["data", "make", "digits", "x", "--test=800"], "^glora: digits has 1 to 797 test images, not 800$"),
        (["data", "make", "digits", "x", "--seed=-1"], "^glora: the seed of a data set is 0 or more, not -1$"),
        (["data", "check"], "(?i)dir is needed|required: .*dir"),
    ],
)
def test_words_that_are_not_understood(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(call(*words), message)
    assert not names_in(tmp_path)


def test_alone_it_shows_its_help() -> None:
    assert "make" in succeed("data").out


def test_list() -> None:
    done = succeed("data", "list")
    head, *rows = done.out.splitlines()
    assert head.split() == ["name", "classes", "the", "label", "is"]
    assert [row.split()[:2] for row in rows] == [[made.name, str(len(made.classes))] for made in MADE.values()]
    found = json.loads(succeed("data", "list", "--json").out)
    assert {row["name"]: (row["classes"], row["label"]) for row in found} == {
        name: (list(made.classes), made.label) for name, made in MADE.items()
    }


# make


def test_make_and_make_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_splits(monkeypatch, 30, 12)
    words = ["data", "make", "scene_count", tmp_path / "scenes", "--test", "8", "--seed", "3"]
    done = succeed(*words)
    assert re.fullmatch(r"scene_count: images 50/50, \d+ s *\n", done.err)
    assert fields_of(done.out) == {
        "data": str(tmp_path / "scenes"),
        "made": "scene_count",
        "label": MADE["scene_count"].label,
        "classes": "8",
        "train": "30",
        "val": "12",
        "test": "8",
        "seed": "3",
        "next": f"glora run --data {tmp_path / 'scenes'} --model NAME",
    }
    again = succeed(*words)
    assert again.err == ""
    assert fields_of(again.out) == fields_of(done.out) | {"made": "scene_count, there already"}
    found = json.loads(succeed(*words, "--json").out)
    assert (found["made"], found["new"]) == ("scene_count", False)
    assert found["info"] == json.loads((tmp_path / "scenes" / "made.json").read_text())
    refused(call(*words[:-1], "4"), r"scenes: holds scene_count with another seed \(3, now 4\): remove it")


def test_make_into_a_folder_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    refused(call("data", "make", "digits", tmp_path), "holds something else: give a folder that is new or empty")


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glora.data.made.copied.FASHION_FOLDER", tmp_path / "nowhere")
    refused(call("data", "make", "fashion", tmp_path / "x"), r"sudo apt-get install dataset-fashion-mnist$")
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    refused(call("data", "make", "digits", tmp_path / "x", "--seed=77"), r'pip install "glora\[demo\]"$')
    assert names_in(tmp_path) == set()


def test_ctrl_c_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(MADE["textures"].__class__, "sample", interrupted)
    done = call("data", "make", "textures", tmp_path / "out" / "x")
    assert done.code == 130
    assert names_in(tmp_path) == set()


def test_a_run_on_made_data(sprites: Path, tmp_path: Path) -> None:
    settings = timm_settings(data=str(sprites), epochs=1, generations=0, random_subnets=1)
    done = succeed("run", *flags(settings), "--baselines=none", "--out", tmp_path / "run")
    assert "searched subnet" in done.out
    data = json.loads((tmp_path / "run" / "metrics.json").read_text())["data"]
    assert (data["train"], data["val"], data["test"], data["layout"]) == (36, 12, 12, "VTAB-1k")
    assert json.loads(succeed("data", "check", sprites, "--json").out)["digest"] == data["digest"]


# check


def test_check_of_a_made_folder(sprites: Path) -> None:
    done = succeed("data", "check", sprites)
    assert re.fullmatch(r"images read 60/60, \d+ s *\n", done.err)
    table, _, rest = done.out.partition("layout")
    head, *rows, last = table.splitlines()
    assert head.split() == ["class", "train", "val", "test"]
    assert last.split() == ["all", "36", "12", "12"]
    labels = [int(line.split()[1]) for line in (sprites / "val200.txt").read_text().splitlines()]
    assert [int(row.split()[2]) for row in rows] == [labels.count(i) for i in range(len(rows))]
    digest = open_data(sprites, Preprocessing(size=8)).digest
    assert rest.splitlines() == [
        "  VTAB-1k",
        f"digest  {digest}",
        "sizes   64 x 64",
        "no problems: glora run can use it",
    ]


@pytest.mark.parametrize("make", [paint, paint_split])
def test_check_of_class_folders(make: object, tmp_path: Path) -> None:
    assert callable(make)
    make(tmp_path / "x")
    Image.new("L", (200, 100)).save(next((tmp_path / "x").rglob("red")) / "large.png")
    found = json.loads(succeed("data", "check", tmp_path / "x", "--json").out)
    data = open_data(tmp_path / "x", Preprocessing(size=8))
    assert data.test is not None
    assert (found["digest"], found["layout"], found["problems"]) == (data.digest, data.layout, [])
    assert [found[part] for part in ("train", "val", "test")] == [len(data.train), len(data.val), len(data.test)]
    for label, name in enumerate(data.classes):
        counts = {part: int((getattr(data, part).labels == label).sum()) for part in ("train", "val", "test")}
        assert found["classes"][name] == counts
    total = len(list((tmp_path / "x").rglob("*.png")))
    assert found["sizes"] == [
        {"width": 24, "height": 20, "images": total - 1},
        {"width": 200, "height": 100, "images": 1},
    ]
    assert "sizes   2 sizes from 24 x 20 to 200 x 100\n" in succeed("data", "check", tmp_path / "x").out


def test_check_of_class_names_that_look_like_markup(tmp_path: Path) -> None:
    paint(tmp_path / "x", {"[red]": 5, "[bold]": 5})
    shown = succeed("data", "check", tmp_path / "x").out
    assert "[red] " in shown
    assert "[bold] " in shown


def test_check_names_every_bad_image(tmp_path: Path) -> None:
    root = paint(tmp_path / "x", {"blue": 10, "red": 10})
    cut_short(root / "red" / "03.png")
    bomb(root / "red" / "04.png", 25_000, 20_000)
    (root / "blue" / "a note.jpg").write_text("no image")
    shutil.copy(root / "red" / "00.png", root / "loose.png")
    done = call("data", "check", root)
    assert done.code == 2
    problems = [line for line in done.out.splitlines() if line.startswith("problem ")]
    assert len(problems) == 4
    for problem, pattern in zip(
        sorted(problems),
        [
            r"blue/a note\.jpg: is no image that can be read \(JPEG",
            r"loose\.png: lies in no class folder",
            r"red/03\.png: is damaged or cut short",
            r"red/04\.png: 500 megapixels",
        ],
        strict=True,
    ):
        assert re.search(pattern, problem)
    assert "digest  none, since not all can be read" in done.out
    assert "no problems" not in done.out
    last = done.err.splitlines()[-1]
    assert last == f"glora: {root} cannot be used as it is: 4 problems, named above"
    found = call("data", "check", root, "--json")
    assert found.code == 2
    assert json.loads(found.out)["digest"] is None
    assert [f"problem {problem}" for problem in json.loads(found.out)["problems"]] == problems


def test_check_names_bad_images_of_a_folder_that_cannot_be_listed_too(tmp_path: Path) -> None:
    root = paint(tmp_path / "x", {"blue": 5, "red": 5})
    (root / "empty").mkdir()
    cut_short(root / "red" / "03.png")
    done = call("data", "check", root)
    assert done.code == 2
    first, second = (line for line in done.out.splitlines() if line.startswith("problem "))
    assert "empty: holds no images" in first
    assert "red/03.png: is damaged or cut short" in second


def test_check_of_a_damaged_image_in_vtab_layout(sprites: Path) -> None:
    cut_short(sprites / "images" / "test" / "000002.png")
    done = call("data", "check", sprites)
    assert done.code == 2
    assert re.search(r"^problem .*sprites/images/test/000002\.png: is damaged or cut short", done.out, re.MULTILINE)
    assert done.err.splitlines()[-1] == f"glora: {sprites} cannot be used as it is: 1 problem, named above"


def _as_vtabs_own(root: Path) -> None:
    (root / "made.json").unlink()
    root.rename(root.with_name("kitti"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "val200.txt").unlink(), r"val200\.txt: no such file"),
        (lambda root: (root / "images" / "test" / "000003.png").unlink(), r"test\.txt, line 4: .*: no such file"),
        (lambda root: (root / "train800.txt").write_text("a.png x\n"), r"train800\.txt, line 1: .* is not of the form"),
        (lambda root: shutil.rmtree(root), r"sprites: no such folder"),
        (_as_vtabs_own, r"train800\.txt, line \d+: "),
    ],
)
def test_check_of_a_folder_that_cannot_be_listed(spoil: object, message: str, sprites: Path) -> None:
    assert callable(spoil)
    spoil(sprites)
    root = sprites.with_name("kitti") if sprites.with_name("kitti").exists() else sprites
    done = call("data", "check", root)
    assert done.code == 2
    (problem,) = done.out.splitlines()
    assert re.match(rf"problem .*{message}", problem)
    assert done.err.splitlines()[-1] == f"glora: {root} cannot be used as it is: 1 problem, named above"
    assert json.loads(call("data", "check", root, "--json").out) == {
        "data": str(root),
        "problems": [problem.removeprefix("problem ")],
    }


def test_check_that_skips_bad_images(tmp_path: Path) -> None:
    root = paint(tmp_path / "x", {"blue": 10, "red": 10})
    cut_short(root / "red" / "03.png")
    (root / "blue" / "a note.jpg").write_text("no image")
    done = succeed("data", "check", root, "--skip-bad")
    skipped = [line for line in done.out.splitlines() if line.startswith("skipped ")]
    assert [Path(line.split(":")[0]).name for line in skipped] == ["a note.jpg", "03.png"]
    digest = open_data(root, Preprocessing(size=8), skip_bad=True).digest
    assert f"digest  {digest}\n" in done.out
    assert done.out.endswith("no problems: glora run --skip-bad can use it\n")
    found = json.loads(succeed("data", "check", root, "--skip-bad", "--json").out)
    assert (len(found["skipped"]), found["problems"], found["digest"]) == (2, [], digest)


def test_check_that_skips_all_of_a_class(tmp_path: Path) -> None:
    root = paint_split(tmp_path / "x")
    for path in (root / "train" / "red").iterdir():
        cut_short(path)
    done = call("data", "check", root, "--skip-bad")
    assert done.code == 2
    assert "problem class 'red' has no training image that can be read: add one\n" in done.out


def test_check_of_a_protocol(tmp_path: Path) -> None:
    own = vtab(tmp_path, "kitti", 4, 711)
    done = call("data", "check", tmp_path, "--protocol=vtab")
    assert done.code == 2
    lines = done.out.splitlines()
    assert len([line for line in lines if line.startswith("problem ")]) == 18
    assert lines[-1] == "usable  kitti: 800 training, 711 test images"
    assert done.err == f"glora: {tmp_path} cannot be used as it is: 18 problems, named above\n"
    change(own / "test.txt", ".jpg 1", ".jpg 9")
    found = json.loads(call("data", "check", tmp_path, "--protocol=vtab", "--json").out)
    assert (len(found["problems"]), found["tasks"]) == (19, [])


# shots, shift and tables


def test_shots_write_a_table_that_a_run_can_use(tmp_path: Path) -> None:
    root = paint(tmp_path / "x", {"blue": 10, "red": 10})
    for suffix in ("csv", "tsv", "jsonl"):
        table = tmp_path / f"few.{suffix}"
        done = fields_of(succeed("data", "shots", root, table, "3", "--seed=1").out)
        assert (done["train"], done["val"], done["test"]) == ("6", "4", "4")
        data = open_data(table, Preprocessing(size=8))
        assert (data.classes, data.layout) == (("blue", "red"), "table with train, val, test")
        assert (len(data.train), data.train.labels.tolist()) == (6, [0, 0, 0, 1, 1, 1])
        assert json.loads(succeed("data", "check", table, "--json").out)["digest"] == data.digest
    refused(call("data", "shots", root, tmp_path / "few.txt", "3"), r"few\.txt: a table ends in \.csv, \.tsv or")


def test_shift(tmp_path: Path) -> None:
    root = paint(tmp_path / "x", {"blue": 3, "red": 3})
    done = succeed("data", "shift", root, tmp_path / "fog", "fog", "--severity=2", "--size=32")
    assert fields_of(done.out)["next"] == f"glora eval FILE --data {tmp_path / 'fog'}"
    assert sorted(path.name for path in (tmp_path / "fog" / "red").iterdir()) == [f"{i:06d}.png" for i in (3, 4, 5)]
    refused(
        call("data", "shift", root, tmp_path / "y", "fogg"), "no corruption or rendering 'fogg': did you mean 'fog'"
    )
