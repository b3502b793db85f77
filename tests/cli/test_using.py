"""Commands that use what a run has made: predict, eval, info, report."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from data.pictures import cut_short
from glora.config import RunConfig
from protocols.miniatures import vtab
from small_run import (
    COLOURS,
    FAST,
    adapter_numbers,
    call,
    copy_of,
    fields_of,
    finished,
    finished_hf,
    flags,
    hf_settings,
    paint,
    paint_split,
    pictures,
    read_json,
    spawn,
    succeed,
    timm_settings,
    write_weights,
)

# predict


def rows_of(text: str) -> list[list[str]]:
    return [line.split("\t") for line in text.splitlines()]


def test_predictions_are_lines_of_path_class_and_probability() -> None:
    done = succeed("predict", finished(), pictures() / "red", pictures() / "blue" / "07.png")
    assert done.err == ""
    rows = rows_of(done.out)
    wanted = [str(pictures() / "red" / f"{n:02d}.png") for n in range(20)] + [str(pictures() / "blue" / "07.png")]
    assert [row[0] for row in rows] == wanted
    assert all(row[1] in COLOURS and 1 / 3 <= float(row[2]) <= 1 and len(row[2]) == 6 for row in rows)
    assert rows[-1][1] == "blue"


@pytest.mark.parametrize("folder", [finished, finished_hf])
def test_run_folder_adapter_and_merged_file_predict_alike(folder: Callable[[], Path]) -> None:
    names = (".", "adapter.safetensors", "merged.safetensors")
    found = [rows_of(succeed("predict", folder() / name, pictures()).out) for name in names]
    assert len(found[0]) == 60
    for rows in found[1:]:
        assert [row[:2] for row in rows] == [row[:2] for row in found[0]]
        assert [float(row[2]) for row in rows] == pytest.approx([float(row[2]) for row in found[0]], abs=2e-4)


def test_the_likeliest_classes_follow_on_the_same_line() -> None:
    one, two, all_ = (
        rows_of(succeed("predict", finished(), pictures() / "red", "--top", top).out) for top in ("1", "2", "9")
    )
    assert {len(row) for row in one} == {3}
    assert {len(row) for row in two} == {5}
    assert {len(row) for row in all_} == {7}
    for short, middle, long in zip(one, two, all_, strict=True):
        assert long[:5] == middle
        assert long[:3] == short
        assert sum(map(float, long[2::2])) == pytest.approx(1, abs=2e-4)
        assert set(long[1::2]) == set(COLOURS)


def test_predictions_for_machines_are_json_lines() -> None:
    done = succeed("predict", finished(), pictures() / "green", "--json", "--top", "2")
    rows = rows_of(succeed("predict", finished(), pictures() / "green", "--top", "2").out)
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert len(lines) == 20
    for line, row in zip(lines, rows, strict=True):
        assert set(line) == {"image", "predictions"}
        assert [line["image"], *(p["class"] for p in line["predictions"])] == [row[0], row[1], row[3]]
        assert [p["probability"] for p in line["predictions"]] == pytest.approx(
            [float(row[2]), float(row[4])], abs=1e-4
        )


def test_classes_and_paths_in_any_script_are_printed_as_they_are(tmp_path: Path) -> None:
    data = paint(tmp_path / "Ωmega", {"red": 6, "blue": 6})
    (data / "red").rename(data / "hündin & co")
    settings = timm_settings(**FAST, data=data, batch_size=4)
    succeed("run", *flags(settings), "--out", tmp_path / "run")
    done = succeed("predict", tmp_path / "run", data / "hündin & co", "--top=2", "--json")
    assert str(data / "hündin & co" / "00.png") in done.out
    assert '"hündin & co"' in done.out


def test_bad_images_are_told_on_stderr_and_skipped(tmp_path: Path) -> None:
    folder = paint(tmp_path, {"red": 3}) / "red"
    cut_short(folder / "01a.jpg")
    done = succeed("predict", finished(), folder, "--skip-bad")
    assert [Path(row[0]).name for row in rows_of(done.out)] == ["00.png", "01.png", "02.png"]
    assert done.err.startswith(f"skipped {folder / '01a.jpg'}: is damaged or cut short")
    assert done.err.count("\n") == 1


def test_a_new_process_predicts_the_same_to_the_letter(environment: dict[str, str]) -> None:
    for name in ("adapter.safetensors", "merged.safetensors"):
        words = ["predict", finished() / name, pictures() / "red", "--top=3", "--precision=fp32"]
        assert spawn(environment, *words) == succeed(*words)


def test_backbone_weights_may_lie_elsewhere(tmp_path: Path) -> None:
    weights = write_weights(tmp_path / "elsewhere.safetensors")
    images = pictures() / "red"
    wanted = succeed("predict", finished(), images)
    assert succeed("predict", finished(), images, "--checkpoint", weights) == wanted


# eval


def test_a_run_is_evaluated_on_its_own_test_images_and_remembers_it(tmp_path: Path) -> None:
    folder = copy_of(finished(), tmp_path)
    rows = read_json(folder / "metrics.json")["table"]
    found = json.loads(succeed("eval", folder, "--json").out)
    assert (found["split"], found["images"], found["skipped"]) == ("test", 12, 0)
    assert found["accuracy"] == rows[-1]["test_accuracy"]
    assert found["standard_error"] == pytest.approx((found["accuracy"] * (1 - found["accuracy"]) / 12) ** 0.5)
    assert found["file"] == str(folder / "adapter.safetensors")
    assert read_json(folder / "metrics.json")["evaluations"] == [found]
    again = json.loads(succeed("eval", folder, "--split=val", "--json").out)
    assert again["accuracy"] == rows[-1]["val_accuracy"]
    assert read_json(folder / "metrics.json")["evaluations"] == [found, again]
    assert read_json(folder / "metrics.json")["table"] == rows


def test_a_run_that_was_not_tested_yet_is_afterwards(tmp_path: Path) -> None:
    succeed("train", *flags(timm_settings(**FAST)), "--out", tmp_path / "run")
    succeed("search", tmp_path / "run")
    succeed("eval", tmp_path / "run", "--split=val")
    assert not read_json(tmp_path / "run" / "metrics.json").get("tested")
    succeed("eval", tmp_path / "run")
    assert read_json(tmp_path / "run" / "metrics.json")["tested"] is True


def test_an_evaluation_in_words() -> None:
    done = succeed("eval", finished() / "merged.safetensors", "--data", pictures())
    found = fields_of(done.out)
    assert found["data"] == str(pictures())
    assert (found["split"], found["images"]) == ("all", "60")
    right = float(found["accuracy"].removesuffix("%"))
    assert 90 <= right <= 100
    assert set(found) == {"file", "data", "split", "images", "accuracy", "standard error", "loss", "skipped"}


@pytest.mark.parametrize("name", ["adapter.safetensors", "merged.safetensors"])
def test_a_file_is_evaluated_on_other_images_by_class_name(name: str, tmp_path: Path) -> None:
    data = paint(tmp_path / "data", {"red": 5, "green": 1}, seed=7)
    wanted = [row[1] == Path(row[0]).parent.name for row in rows_of(succeed("predict", finished() / name, data).out)]
    found = json.loads(succeed("eval", finished() / name, "--data", data, "--json").out)
    assert (found["images"], found["split"], found["accuracy"]) == (6, "all", sum(wanted) / 6)


@pytest.mark.parametrize(("split", "count"), [(None, 12), ("test", 12), ("val", 12), ("train", 36)])
def test_parts_of_a_folder_with_splits(split: str | None, count: int, tmp_path: Path) -> None:
    data = paint_split(tmp_path / "data")
    words = [] if split is None else ["--split", split]
    done = succeed("eval", finished() / "merged.safetensors", "--data", data, *words, "--json")
    assert (json.loads(done.out)["split"], json.loads(done.out)["images"]) == (split or "test", count)


def test_a_table_is_evaluated(tmp_path: Path) -> None:
    rows = [f"{pictures() / name / '00.png'},{name}" for name in COLOURS]
    (tmp_path / "x.csv").write_text("\n".join(["path,label", *rows]))
    found = json.loads(succeed("eval", finished() / "merged.safetensors", "--data", tmp_path / "x.csv", "--json").out)
    assert (found["images"], found["split"]) == (3, "all")


def test_on_the_way_between_two_weights(tmp_path: Path) -> None:
    data = paint(tmp_path / "data", seed=7)
    words = ["--data", data, "--json"]
    done = succeed("eval", finished() / "adapter.safetensors", "--alphas=0:1:0.5", *words)
    found = json.loads(done.out)
    assert list(found["alphas"]) == ["0.0", "0.5", "1.0"]
    for alpha, figures in found["alphas"].items():
        merged = tmp_path / f"{alpha}.safetensors"
        succeed("merge", finished() / "adapter.safetensors", "--alpha", alpha, "--out", merged)
        assert figures == {"all": json.loads(succeed("eval", merged, *words).out)["accuracy"]}
    assert found["images"] == {"all": 60}
    table = succeed("eval", finished() / "adapter.safetensors", "--alphas=0,1", "--data", data).out.splitlines()
    assert table[0].split() == ["test", "set,", "by", "alpha", "0.0", "1.0"]
    refused = call("eval", finished() / "merged.safetensors", "--alphas=0,1", *words)
    assert (refused.code, "is merged already: give the adapter file" in refused.err) == (2, True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--alphas=0:1"], "--alphas '0:1': write first:last:step, such as 0:1:0.1"),
        (["--alphas=0:1:0"], "--alphas '0:1:0': write first"),
        (["--alphas=0,1.5"], r"--alphas '0,1.5': 1.5 is not from 0"),
        (["--task=kitti"], "--task names a data set of a protocol"),
        (["--protocol=vtab"], "say what to evaluate on: --data DIR"),
        (["--protocol=vtab", "--data=x", "--split=val"], "--protocol evaluates on its test sets"),
        (["--protocol=vtab", "--data=."], "protocol vtab has several data sets: say which one"),
    ],
)
def test_evaluations_that_cannot_be(words: list[str], message: str) -> None:
    done = call("eval", finished(), *words)
    assert done.code == 2
    assert message in done.err


def test_other_classes_than_the_protocol_s(tmp_path: Path) -> None:
    vtab(tmp_path, "kitti", 4, 711)
    done = call("eval", finished(), "--protocol=vtab", "--task=kitti", "--data", tmp_path)
    assert done.code == 2
    assert "has other classes (3: blue, green, red, ...) than kitti of protocol vtab (4: 0, 1, ...)" in done.err


def test_bad_images_are_skipped_in_an_evaluation_and_counted(tmp_path: Path) -> None:
    data = paint(tmp_path / "data", {"red": 5, "green": 5})
    cut_short(data / "red" / "zz.jpg")
    words = ["eval", finished() / "merged.safetensors", "--data", data, "--json"]
    assert call(*words).code == 2
    found = json.loads(succeed(*words, "--skip-bad").out)
    assert (found["images"], found["skipped"]) == (10, 1)


def test_every_bad_file_is_counted_whatever_is_wrong_with_it(tmp_path: Path) -> None:
    data = paint(tmp_path / "data", {"red": 5, "green": 5})
    cut_short(data / "red" / "zz.jpg")
    (data / "red" / "text.png").write_text("no image")
    shutil.copy(data / "red" / "00.png", data / "loose.png")
    done = succeed("eval", finished() / "merged.safetensors", "--data", data, "--json", "--skip-bad")
    assert (json.loads(done.out)["images"], json.loads(done.out)["skipped"]) == (10, 3)


# info


VIT_SMALL = {"attn.qkv": (1152, 384), "attn.proj": (384, 384), "mlp.fc1": (1536, 384), "mlp.fc2": (384, 1536)}


def test_a_model_is_described_without_its_weights() -> None:
    found = json.loads(succeed("info", "vit_small_patch16_224", "--json", "--classes=37").out)
    outs, ins = (12 * sum(shape[axis] for shape in VIT_SMALL.values()) for axis in (0, 1))
    assert (found["smallest"], found["largest"]) == (0, 2 * 4 * (outs + ins) + ins + 2 * outs)
    assert found["structures"] == 288**48
    assert found["head"] == {"names": ["head"], "parameters": 384 * 37 + 37}
    assert found["input"] == 224
    assert found["presets"] == {
        "BitFit": outs,
        "(IA)^3": 2 * outs,
        "SSF": 3 * outs,
        **{f"LoRA {rank}": rank * (outs + ins) for rank in (1, 2, 4, 8)},
    }
    rows = {row["name"]: row for row in found["layers"]}
    assert list(rows) == [f"blocks.{n}.{name}" for n in range(12) for name in VIT_SMALL]
    for name, row in rows.items():
        assert (row["out"], row["in"]) == VIT_SMALL[name.split(".", 2)[2]]
        assert row["bias"] is True
        assert row["choices"]["A"] == ["rank-4", "vector", "scalar", "none"]
        assert row["largest"] == 8 * (row["out"] + row["in"]) + row["in"] + 2 * row["out"]
    # all that is not the head: patches, class token, positions, norms, and the layers with their biases
    layers = 12 * sum(out * into + out for out, into in VIT_SMALL.values())
    assert found["frozen"] == layers + 384 * 768 + 384 + 384 + 197 * 384 + (12 * 2 + 1) * 2 * 384


def test_layers_that_are_left_alone_are_named_with_the_reason() -> None:
    found = json.loads(succeed("info", "vit_small_patch16_224", "--json").out)
    (skipped,) = [one for one in found["skipped"] if one["name"] == "patch_embed.proj"]
    assert "Conv2d" in skipped["reason"]
    shown = succeed("info", "vit_small_patch16_224").out
    assert f"left alone        patch_embed.proj: {skipped['reason']}" in " ".join(shown.split("\n")[-8:])


def test_a_model_in_words() -> None:
    shown = succeed("info", "vit_small_patch16_224", "--rank=8", "--classes=5").out
    outs, ins = (12 * sum(shape[axis] for shape in VIT_SMALL.values()) for axis in (0, 1))
    assert f"feasible budgets  0 to {2 * 8 * (outs + ins) + ins + 2 * outs:,} adapter parameters" in shown
    assert f"BitFit {outs:,}, (IA)^3 {2 * outs:,}, SSF {3 * outs:,}, LoRA 1 {outs + ins:,}" in shown
    assert f"head: {384 * 5 + 5:,} parameters for 5 classes, apart" in shown
    assert "about 10^118 structures" in shown  # 288**48 = 1.1e118
    (row,) = [line for line in shown.splitlines() if line.startswith("blocks.*.mlp.fc1")]
    assert row.split()[:5] == ["blocks.*.mlp.fc1", "12", "384", "->", "1536"]
    assert f"rank-8 {8 * (1536 + 384):,}" in row


def test_what_is_asked_of_a_model_shows_in_its_description() -> None:
    found = json.loads(succeed("info", "test_vit", "--size=32", "--space=lora-3", "--layers=*.attn.*", "--json").out)
    assert found["input"] == 32
    assert len(found["layers"]) == 12
    assert found["smallest"] == found["largest"] == 6 * 3 * (192 + 64 + 64 + 64)
    assert found["structures"] == 1


def test_a_model_of_transformers_is_described_too() -> None:
    found = json.loads(succeed("info", hf_settings()["model"], "--json").out)
    assert len(found["layers"]) == 2 * 6
    assert found["largest"] == 2 * (4 * (8 * 32 + 3 * 16) + 2 * (8 * 48) + 16 + 32 + 2 * (32 + 16))


@pytest.mark.parametrize("folder", [finished, finished_hf])
def test_files_of_a_run_say_what_they_are(folder: Callable[[], Path]) -> None:
    run = json.loads(succeed("info", folder(), "--json").out)
    adapter = json.loads(succeed("info", folder() / "adapter.safetensors", "--json").out)
    supernet = json.loads(succeed("info", folder() / "supernet.safetensors", "--json").out)
    merged = json.loads(succeed("info", folder() / "merged.safetensors", "--json").out)
    assert run == adapter
    assert [found["kind"] for found in (adapter, supernet, merged)] == ["adapter", "supernet", "merged"]
    for found in (adapter, supernet, merged):
        assert found["classes"] == ["blue", "green", "red"]
        assert found["backbone"] == RunConfig.load(folder()).model
    assert adapter["parameters"] == adapter_numbers(folder() / "adapter.safetensors")
    assert adapter["structure"] == read_json(folder() / "structure.json")["best"]["structure"]


def test_an_adapter_in_words() -> None:
    shown = succeed("info", finished()).out
    best = read_json(finished() / "structure.json")["best"]
    assert "kind        adapter, written by glora " in shown
    assert "classes     3: blue, green, red" in shown
    assert "images      size 32, mean [" in shown
    assert f"parameters  {best['size']:,}" in shown
    for name, forms in best["structure"].items():
        (line,) = [line for line in shown.splitlines() if line.split()[:1] == [name]]
        assert all(form in line for form in forms.values())
    assert "weights" not in succeed("info", finished() / "supernet.safetensors").err


# report


@pytest.mark.parametrize(
    "missing", [(), ("merged", "metrics"), ("adapter", "structure", "search"), ("train", "search")]
)
def test_a_report_is_made_from_whatever_is_there(missing: tuple[str, ...], tmp_path: Path) -> None:
    folder = copy_of(finished(), tmp_path)
    (folder / "report.html").unlink()
    for name in missing:
        (path,) = folder.glob(f"{name}.*")
        path.unlink()
    done = succeed("report", folder, "--json")
    assert json.loads(done.out) == {"report": str(folder / "report.html")}
    assert done.err == ""
    assert "</html>" in (folder / "report.html").read_text("utf-8")


def test_a_run_that_has_only_begun_has_a_report_too(tmp_path: Path) -> None:
    shutil.copy(finished() / "config.yaml", tmp_path)
    done = succeed("report", tmp_path)
    assert fields_of(done.out) == {"report": str(tmp_path / "report.html")}
    assert "</html>" in (tmp_path / "report.html").read_text("utf-8")
