"""Images and folders of images that will not do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from refusals import refused, run_words

from data.pictures import bomb, cut_short
from small_run import call, finished, paint, paint_split, succeed

pytestmark = pytest.mark.usefixtures("_hub_offline")


def spoil(data: Path, fault: str) -> str:
    """Put a bad file among the red ones; how a message names it."""
    folder = data / "train" / "red" if (data / "train").is_dir() else data / "red"
    if fault == "text":
        (folder / "a note.jpg").write_text("no image")
        return r"red/a note\.jpg: is no image that can be read \(JPEG, PNG, .*--skip-bad"
    if fault == "truncated":
        cut_short(folder / "cut.jpg")
        return r"red/cut\.jpg: is damaged or cut short .*--skip-bad"
    if fault == "bomb":
        bomb(folder / "bomb.png", 25_000, 20_000)
        return r"red/bomb\.png: 500 megapixels \(limit 179\): make the image smaller.*--skip-bad"
    assert fault == "empty"
    (folder / "empty.png").touch()
    return r"red/empty\.png: is an empty file \(0 bytes\).*--skip-bad"


FAULTS = ["text", "truncated", "bomb", "empty"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_image_is_named_and_can_be_skipped(fault: str, tmp_path: Path) -> None:
    data = paint_split(tmp_path / "data")
    message = spoil(data, fault)
    words = run_words(tmp_path / "run", data=data)
    refused(call(*words), message)
    assert not (tmp_path / "run").exists()
    done = succeed(*words, "--skip-bad")
    assert done.err.startswith(f"data: 1 bad files skipped, the first is {data / 'train' / 'red'}/")
    found = json.loads((tmp_path / "run" / "metrics.json").read_text("utf-8"))["data"]
    assert (found["skipped"], found["train"]) == (1, 36)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("command", ["eval", "predict"])
def test_a_bad_image_is_named_by_eval_and_predict_too(command: str, fault: str, tmp_path: Path) -> None:
    data = paint(tmp_path / "data", {"red": 3, "blue": 3})
    message = spoil(data, fault)
    words = [f"--data={data}"] if command == "eval" else [str(data)]
    done = call(command, finished() / "merged.safetensors", *words)
    refused(done, message)
    assert call(command, finished() / "merged.safetensors", *words, "--skip-bad").code == 0


@pytest.mark.parametrize("fault", FAULTS)
def test_a_single_bad_image_to_predict_is_named(fault: str, tmp_path: Path) -> None:
    data = paint(tmp_path / "data", {"red": 1})
    message = spoil(data, fault).removesuffix(".*--skip-bad")
    (bad,) = [path for path in (data / "red").iterdir() if path.name != "00.png"]
    refused(call("predict", finished() / "merged.safetensors", bad), message)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda data: None, r"data: no such folder$"),
        (lambda data: data.mkdir(), r"data: holds no class folders: sort the images into .*data/<class>/$"),
        (lambda data: data.write_text("x"), r"data: is no folder$"),
        (lambda data: paint(data, {"red": 5}), r"data: has one class only \('red'\): two or more are needed$"),
        (
            lambda data: paint(data, {"red": 5, "blue": 1}),
            r"class 'blue' has one image \(.*blue/00\.png\): a split needs",
        ),
        (lambda data: (paint(data, {"red": 5}), (data / "blue").mkdir()), r"data/blue: holds no images: add some"),
        (lambda data: paint_split(data, ("val", "test")), r"data: has .* but no folder train$"),
    ],
)
def test_a_folder_of_images_that_will_not_do(make: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    make(tmp_path / "data")
    refused(call(*run_words(tmp_path / "run", data=tmp_path / "data")), message)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda data: None, r"data: no such folder$"),
        (lambda data: data.mkdir(), r"data: holds no class folders: sort the images into .*data/<class>/$"),
        (
            lambda data: paint(data, {"red": 1, "violet": 1}),
            r"knows no class 'violet': its classes are blue, green, red$",
        ),
        (lambda data: paint_split(data, ("train", "val")), r"has no test images: give --split train, val or all"),
    ],
)
def test_images_that_cannot_be_evaluated_on(make: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    make(tmp_path / "data")
    refused(call("eval", finished() / "merged.safetensors", "--data", tmp_path / "data"), message)


def test_every_part_of_the_advice_on_splits_can_be_followed(tmp_path: Path) -> None:
    data = paint_split(tmp_path / "data", ("train", "val"))
    for split in ("train", "val", "all"):
        succeed("eval", finished() / "merged.safetensors", "--data", data, "--split", split)


@pytest.mark.parametrize("name", ["nowhere.png", "empty"])
def test_nothing_to_predict(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    message = {"nowhere.png": r"nowhere\.png: no such file or folder$", "empty": r"empty: holds no images$"}[name]
    refused(call("predict", finished() / "merged.safetensors", tmp_path / name), message)
