"""Using what a run has made: opening its files, classifying images, and labelled images by class name."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import glora
from data.pictures import bomb, cut_short
from glora.checkpoint import load_merged
from glora.errors import BackboneError, CheckpointError, DataError
from glora.evaluate import predict_logits
from glora.inference import Prediction, labelled_part, open_adapter, open_classifier, predict
from helpers import MLP
from small_run import (
    COLOURS,
    complete,
    copy_of,
    finished,
    finished_hf,
    paint,
    paint_split,
    pictures,
    timm_settings,
    write_weights,
)

pytestmark = pytest.mark.usefixtures("single_threaded")


def found_in(source: Path, images: list[Path] | None = None, **options: Any) -> list[Prediction]:
    return list(predict(open_classifier(source), images or [pictures()], **options))


# Opening


@pytest.mark.parametrize(("name", "kind"), [("", "adapter"), ("adapter", "adapter"), ("merged", "merged")])
@pytest.mark.parametrize("folder", [finished, finished_hf])
def test_a_run_folder_and_its_files_open_as_classifiers(folder: Callable[[], Path], name: str, kind: str) -> None:
    opened = open_classifier(folder() / f"{name}.safetensors" if name else folder())
    assert opened.kind == kind
    assert opened.file == folder() / f"{kind}.safetensors"
    assert opened.classes == ("blue", "green", "red")
    assert opened.preprocessing.size == (32 if folder is finished else 16)
    assert not opened.model.training
    assert not isinstance(opened.model, glora.GLoRAModel)


def test_what_is_opened_is_the_run_s_model() -> None:
    net = open_adapter(finished() / "adapter.safetensors")
    samples, _, _ = labelled_part(open_classifier(finished()), str(pictures()))
    wanted = predict_logits(net, samples)
    for file in ("adapter", "merged"):
        got = predict_logits(open_classifier(finished() / f"{file}.safetensors").model, samples)
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)
    assert wanted.std() > 0.1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("supernet.safetensors", "is a file of kind 'supernet': give an adapter, a merged file or a run folder"),
        ("nowhere.safetensors", r"nowhere\.safetensors: no such file"),
        ("config.yaml", r"config\.yaml is damaged or no safetensors file"),
    ],
)
def test_what_is_no_classifier(name: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        open_classifier(finished() / name)


def test_a_run_that_has_no_adapter_yet_says_what_makes_it(tmp_path: Path) -> None:
    folder = copy_of(finished(), tmp_path)
    (folder / "adapter.safetensors").unlink()
    with pytest.raises(CheckpointError, match=f"has no adapter.safetensors.*glora search {re.escape(str(folder))}"):
        open_classifier(folder)


def test_a_foreign_safetensors_file(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(2)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=r"x\.safetensors was not written by glora"):
        open_classifier(tmp_path / "x.safetensors")


def test_an_adapter_saved_without_its_surroundings_says_so(tmp_path: Path) -> None:
    net = glora.adapt(MLP())
    net.save(tmp_path / "bare.safetensors")
    with pytest.raises(
        CheckpointError, match=r"bare\.safetensors does not say what backbone.*open it with glora\.load"
    ):
        open_classifier(tmp_path / "bare.safetensors")


def test_an_adapter_on_other_weights_is_refused_with_the_layer(tmp_path: Path) -> None:
    other = write_weights(tmp_path / "other.safetensors", seed=1)
    for open_ in (open_adapter, open_classifier):
        with pytest.raises(CheckpointError, match=r"trained on another backbone \(test_vit\), which differs in layer"):
            open_(finished() / "adapter.safetensors", str(other))


def test_backbone_weights_may_have_moved_and_a_merged_file_needs_none(tmp_path: Path) -> None:
    before = write_weights(tmp_path / "before.safetensors")
    settings = timm_settings(checkpoint=str(before), epochs=1, baselines="none", random_subnets=0)
    complete(settings, tmp_path / "run")
    images = [pictures() / "red"]
    wanted = found_in(tmp_path / "run", images)
    now = before.rename(tmp_path / "now.safetensors")
    with pytest.raises(BackboneError, match=r"no such checkpoint file: .*before\.safetensors"):
        open_classifier(tmp_path / "run")
    assert list(predict(open_classifier(tmp_path / "run", str(now)), images)) == wanted
    merged = found_in(tmp_path / "run" / "merged.safetensors", images)
    assert [one.classes[0][0] for one in merged] == [one.classes[0][0] for one in wanted]


# Predicting


@pytest.mark.parametrize("folder", [finished, finished_hf])
def test_adapter_merged_file_and_run_folder_agree(folder: Callable[[], Path]) -> None:
    names = ("", "adapter.safetensors", "merged.safetensors")
    run, adapter, merged = (found_in(folder() / name, top=3) for name in names)
    assert run == adapter
    assert len(run) == 60
    for one, other in zip(run, merged, strict=True):
        assert one.image == other.image
        assert [name for name, _ in one.classes] == [name for name, _ in other.classes]
        assert [p for _, p in one.classes] == pytest.approx([p for _, p in other.classes], abs=1e-5)


def test_colours_are_told_by_name() -> None:
    found = found_in(finished())
    assert [Path(one.image).parent.name for one in found] == [name for name in COLOURS for _ in range(20)]
    right = sum(one.classes[0][0] == Path(one.image).parent.name for one in found)
    assert right >= 55


def test_all_classes_sum_to_one_and_come_likeliest_first() -> None:
    for one in found_in(finished(), top=99):
        names, values = zip(*one.classes, strict=True)
        assert sorted(names) == sorted(COLOURS)
        assert sum(values) == pytest.approx(1)
        assert list(values) == sorted(values, reverse=True)


def test_probabilities_are_the_softmax_of_the_model() -> None:
    opened = open_classifier(finished())
    samples, _, _ = labelled_part(opened, str(pictures()))
    wanted = predict_logits(opened.model, samples).softmax(1).max(1).values
    got = [one.classes[0][1] for one in predict(opened, [pictures()])]
    torch.testing.assert_close(torch.tensor(got), wanted)


def test_files_and_folders_of_any_depth_come_in_the_order_given(tmp_path: Path) -> None:
    paint(tmp_path / "deep" / "er", {"red": 2})
    (tmp_path / "deep" / ".hidden").mkdir()
    shutil.copy(pictures() / "blue" / "03.png", tmp_path / "deep" / ".hidden")
    (tmp_path / "deep" / "notes.txt").write_text("no image")
    odd = tmp_path / "picture without a suffix"
    shutil.copy(pictures() / "green" / "00.png", odd)
    given = [odd, tmp_path / "deep", pictures() / "blue" / "03.png"]
    found = found_in(finished(), given)
    red = tmp_path / "deep" / "er" / "red"
    assert [one.image for one in found] == list(map(str, (odd, red / "00.png", red / "01.png", given[2])))


def test_batches_and_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = found_in(finished(), top=3)
    monkeypatch.setattr("glora.inference._CHUNK", 7)
    pieces = found_in(finished(), top=3, batch_size=2)
    assert [one.image for one in pieces] == [one.image for one in whole]
    for one, other in zip(pieces, whole, strict=True):
        assert dict(one.classes) == pytest.approx(dict(other.classes), abs=1e-5)


@pytest.fixture
def spoilt(tmp_path: Path) -> Path:
    """A folder of five pictures with a damaged one, a bomb and a text between them."""
    folder = paint(tmp_path, {"red": 5}) / "red"
    cut_short(folder / "01a.jpg")
    bomb(folder / "02a.png", 25_000, 20_000)
    (folder / "03a.png").write_text("no image")
    return folder


def test_a_bad_image_is_named(spoilt: Path) -> None:
    with pytest.raises(DataError, match=r"01a\.jpg: is damaged or cut short .*2 more cannot be read.*--skip-bad"):
        found_in(finished(), [spoilt])


@pytest.mark.parametrize("chunk", [512, 3, 1])
def test_bad_images_can_be_skipped_wherever_they_stand(
    chunk: int, spoilt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # with chunks of one, as with a last chunk of one, a bad image is all that its chunk has
    monkeypatch.setattr("glora.inference._CHUNK", chunk)
    skipped: list[tuple[str, str]] = []
    found = found_in(finished(), [spoilt], skip_bad=True, on_skip=lambda path, why: skipped.append((path, why)))
    assert [Path(one.image).name for one in found] == [f"0{index}.png" for index in range(5)]
    assert [Path(path).name for path, _ in skipped] == ["01a.jpg", "02a.png", "03a.png"]
    assert "500 megapixels" in skipped[1][1]
    for one, other in zip(found, found_in(finished(), [spoilt / f"0{n}.png" for n in range(5)]), strict=True):
        assert dict(one.classes) == pytest.approx(dict(other.classes), abs=1e-5)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (["nowhere.png"], r"nowhere\.png: no such file or folder"),
        (["empty"], r"empty: holds no images"),
        (["fine.png", "nowhere"], r"nowhere: no such file or folder"),
    ],
)
def test_paths_that_hold_nothing_are_named_before_anything_is_decoded(
    images: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    shutil.copy(pictures() / "red" / "00.png", tmp_path / "fine.png")
    monkeypatch.setattr("glora.inference.ImageSamples", lambda *args, **kwargs: pytest.fail("decoded"))
    with pytest.raises(DataError, match=message):
        found_in(finished(), [tmp_path / name for name in images])


# Labelled images


def test_a_folder_without_splits_is_taken_as_a_whole_and_one_with_them_by_its_test_part(tmp_path: Path) -> None:
    opened = open_classifier(finished())
    samples, part, _ = labelled_part(opened, str(pictures()))
    assert (len(samples), part) == (60, "all")
    data = str(paint_split(tmp_path / "data"))
    for split, count in (("auto", 12), ("test", 12), ("val", 12), ("train", 36)):
        samples, part, _ = labelled_part(opened, data, split)
        assert (len(samples), part) == (count, "test" if split == "auto" else split)


def test_all_images_of_a_folder_with_splits(tmp_path: Path) -> None:
    samples, part, _ = labelled_part(open_classifier(finished()), str(paint_split(tmp_path / "data")), "all")
    assert (len(samples), part) == (60, "all")


def test_a_split_cut_by_a_seed_is_the_run_s_own() -> None:
    opened = open_classifier(finished())
    cut = {"seed": 0, "val_fraction": 0.2, "test_fraction": 0.2}
    parts = [labelled_part(opened, str(pictures()), split, **cut) for split in ("auto", "train", "val")]
    assert [(len(samples), part) for samples, part, _ in parts] == [(12, "test"), (36, "train"), (12, "val")]
    files = [set(samples._images) for samples, _, _ in parts]
    assert len(files[0] | files[1] | files[2]) == 60
    other, _, _ = labelled_part(opened, str(pictures()), **{**cut, "seed": 1})
    assert set(other._images) != files[0]


def test_labels_are_the_model_s_whatever_classes_the_folder_has(tmp_path: Path) -> None:
    opened = open_classifier(finished())
    paint(tmp_path, {"red": 3, "green": 2})
    samples, _, _ = labelled_part(opened, str(tmp_path))
    assert samples.labels.tolist() == [1, 1, 2, 2, 2]


def test_a_class_that_the_model_does_not_know(tmp_path: Path) -> None:
    paint(tmp_path, {"red": 3, "violet": 2})
    message = r"adapter\.safetensors knows no class 'violet': its classes are blue, green, red$"
    with pytest.raises(DataError, match=message):
        labelled_part(open_classifier(finished()), str(tmp_path))


def test_a_split_that_is_not_there(tmp_path: Path) -> None:
    data = paint_split(tmp_path / "data", ("train", "val"))
    with pytest.raises(DataError, match="has no test images: give --split train, val or all"):
        labelled_part(open_classifier(finished()), str(data))


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no class folders: sort the images into"):
        labelled_part(open_classifier(finished()), str(tmp_path))


def test_a_merged_file_of_another_shape_does_not_fit() -> None:
    model = glora.backbones.load_backbone("test_vit", num_classes=4, size=32, pretrained=False).model
    with pytest.raises(CheckpointError, match=r"merged\.safetensors: head\.\w+ is \[3.*expected \[4"):
        load_merged(model, finished() / "merged.safetensors")
