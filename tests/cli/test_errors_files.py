"""Files and run folders that will not do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from refusals import refused, run_words
from safetensors.torch import save_file

from small_run import call, copy_of, finished, flags, paint, pictures, succeed, timm_settings, write_weights

pytestmark = pytest.mark.usefixtures("_hub_offline")


@pytest.mark.parametrize("command", ["predict", "eval"])
def test_a_file_that_is_not_ours(command: str, tmp_path: Path) -> None:
    save_file({"x": torch.zeros(2)}, tmp_path / "x.safetensors")
    (tmp_path / "y.safetensors").write_text("no file of ours")
    words = [pictures()] if command == "predict" else ["--data", pictures()]
    for name, message in (
        ("x", r"x\.safetensors was not written by glora"),
        ("y", r"y\.safetensors is damaged or no safetensors file"),
        ("z", r"z\.safetensors: no such file"),
    ):
        refused(call(command, tmp_path / f"{name}.safetensors", *words), message)
        refused(call("merge", tmp_path / f"{name}.safetensors"), message)
    refused(
        call(command, finished() / "supernet.safetensors", *words),
        r"is a file of kind 'supernet': give an adapter, a merged file or a run folder",
    )
    refused(call("merge", finished() / "merged.safetensors"), r"is a file of kind 'merged', and one of kind 'adapter'")


def test_an_adapter_on_other_weights(tmp_path: Path) -> None:
    other = write_weights(tmp_path / "other.safetensors", seed=1)
    message = r"adapter\.safetensors was trained on another backbone \(test_vit\), which differs in layer 'blocks\."
    for words in (["predict", finished(), pictures()], ["merge", finished()], ["eval", finished()]):
        refused(call(*words, "--checkpoint", other), message)


@pytest.mark.parametrize("command", ["predict", "eval", "merge", "info"])
def test_a_folder_that_is_no_run_says_so(command: str, tmp_path: Path) -> None:
    words = {"predict": [pictures()], "eval": [f"--data={pictures()}"]}.get(command, [])
    refused(call(command, tmp_path, *words), "is no run folder|has no adapter.safetensors: glora search")


@pytest.mark.parametrize("command", ["predict", "eval", "merge", "info"])
def test_a_run_without_an_adapter_says_what_makes_one(command: str, tmp_path: Path) -> None:
    folder = copy_of(finished(), tmp_path)
    (folder / "adapter.safetensors").unlink()
    words = [pictures()] if command == "predict" else []
    refused(call(command, folder, *words), rf"has no adapter\.safetensors yet: glora search {folder} makes it")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", r"config\.yaml is no readable YAML"),
        ("data: x\nmodel: y\ncolour: red\n", r"config\.yaml: .*'colour'"),
    ],
)
def test_a_run_folder_whose_settings_are_damaged(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text)
    for command in ("search", "report", "eval"):
        refused(call(command, tmp_path), message)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("metrics.json", r"metrics\.json is .*JSON.*: delete it"),
        ("supernet.safetensors", r"supernet\.safetensors is damaged or no safetensors file"),
        ("search.jsonl", r"search\.jsonl, line 1: not the header of a search history; delete the file"),
        ("adapter.safetensors", r"adapter\.safetensors is damaged or no safetensors file"),
    ],
)
def test_a_run_with_a_damaged_file_names_it(name: str, message: str, tmp_path: Path) -> None:
    settings = timm_settings(finetune_epochs=2)
    folder = copy_of(finished(), tmp_path)
    (folder / name).write_text("damaged\n")
    done = call("run", *flags(settings), "--out", folder)
    assert done.code == 2
    assert re.search(f"^glora: .*{message}", done.err.splitlines()[-1])


def test_a_run_folder_with_other_settings_or_other_data(tmp_path: Path) -> None:
    data = paint(tmp_path / "data")
    succeed(*run_words(tmp_path / "run", data=data))
    refused(
        call(*run_words(tmp_path / "run", data=data, lr=0.5)),
        r"holds a run with lr=0\.01, now it is 0\.5: give the same settings to go on with it, or another --out",
    )
    (data / "red" / "00.png").unlink()
    refused(
        call(*run_words(tmp_path / "run", data=data)),
        r"holds a run on other images of .*data \(some were .*\): put them back, or start anew with another --out$",
    )


def test_a_search_anew_needs_a_trained_supernet(tmp_path: Path) -> None:
    folder = copy_of(finished(), tmp_path)
    (folder / "supernet.safetensors").unlink()
    message = rf"finished has no trained supernet yet: glora search {folder} without --out trains it"
    refused(call("search", folder, "--out", tmp_path / "new", "--budget=1k"), message)
    assert not (tmp_path / "new").exists()


def test_a_search_anew_in_a_folder_with_another_search(tmp_path: Path) -> None:
    folder = copy_of(finished(), tmp_path)
    for out in (folder, tmp_path / "new"):
        done = call("search", folder, "--out", out, "--budget=1k", "--finetune-epochs=0")
        assert done.code == (2 if out == folder else 0)
    refused(call("search", folder, "--out", tmp_path / "new", "--budget=2k", "--finetune-epochs=0"), "budget=1000, now")


def test_a_run_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    refused(call(*run_words(tmp_path / "run")), f"{tmp_path / 'run'}.*(is a file|is no folder)")


def test_a_merged_file_that_is_a_folder(tmp_path: Path) -> None:
    refused(call("merge", finished(), "--out", tmp_path), re.escape(str(tmp_path)))


@pytest.mark.parametrize("size", ["0", "-1"])
def test_a_batch_of_nothing(size: str) -> None:
    words = ["eval", finished() / "merged.safetensors", "--data", pictures(), "--batch-size", size]
    refused(call(*words), "(?i)batch.size.* 1 or more")
