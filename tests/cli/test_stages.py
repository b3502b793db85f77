"""``glora train``, ``search`` and ``merge``: one by one, once more with other settings, half way."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file

from glora.config import RunConfig
from small_run import (
    FAST,
    FILES,
    Outcome,
    adapter_numbers,
    call,
    copy_of,
    fields_of,
    finished,
    flags,
    names_in,
    read_json,
    same_tensors,
    succeed,
    timm_settings,
)


def test_one_by_one_the_commands_give_what_run_gives(tmp_path: Path) -> None:
    folder = tmp_path / "apart"
    trained = succeed("train", *flags(timm_settings(finetune_epochs=2)), "--out", folder)
    assert fields_of(trained.out) == {
        "supernet": str(folder / "supernet.safetensors"),
        "report": str(folder / "report.html"),
        "next": f"glora search {folder}",
    }
    assert names_in(folder) == {"config.yaml", "metrics.json", "report.html", "supernet.safetensors", "train.jsonl"}
    searched = succeed(*shlex.split(fields_of(trained.out)["next"])[1:])
    best = read_json(folder / "structure.json")["best"]
    found = fields_of(searched.out)
    assert found["val accuracy"] == f"{best['accuracy']:.2%}"
    assert found["parameters"] == f"{best['size']:,}"
    assert found["next"] == f"glora merge {folder}"
    merged = succeed(*shlex.split(found["next"])[1:])
    assert fields_of(merged.out)["merged"] == str(folder / "merged.safetensors")
    assert fields_of(merged.out)["same predictions"] == "True"
    assert names_in(folder) == FILES - {"correct.json"}
    for name in ("adapter.safetensors", "supernet.safetensors", "search.jsonl", "structure.json", "train.jsonl"):
        assert (folder / name).read_bytes() == (finished() / name).read_bytes()
    assert same_tensors(folder / "merged.safetensors", finished() / "merged.safetensors")


def test_results_of_the_stages_for_machines(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    trained = json.loads(succeed("train", *flags(timm_settings(**FAST)), f"--out={folder}", "--json").out)
    assert trained == {
        "supernet": str(folder / "supernet.safetensors"),
        "report": str(folder / "report.html"),
        "next": f"glora search {folder}",
    }
    searched = json.loads(succeed("search", folder, "--json").out)
    best = read_json(folder / "structure.json")["best"]
    assert (searched["val_accuracy"], searched["parameters"]) == (best["accuracy"], best["size"])
    merged = json.loads(succeed("merge", folder, "--json").out)
    assert merged["merged"] == str(folder / "merged.safetensors")
    assert merged["alpha"] == 1.0
    assert merged["max_difference"] < 1e-5
    assert merged["created_biases"] == []


def test_the_supernet_can_be_searched_anew_with_another_budget(tmp_path: Path) -> None:
    source = copy_of(finished(), tmp_path)
    before = {name: (source / name).read_bytes() for name in names_in(source)}
    succeed("search", source, "--out", tmp_path / "new", "--budget", "1.2k", "--finetune-epochs", "0")
    assert {name: (source / name).read_bytes() for name in names_in(source)} == before
    succeed("run", *flags(timm_settings(budget="1.2k")), "--out", tmp_path / "scratch")
    for name in ("adapter.safetensors", "search.jsonl", "structure.json", "supernet.safetensors", "train.jsonl"):
        assert (tmp_path / "new" / name).read_bytes() == (tmp_path / "scratch" / name).read_bytes()
    assert adapter_numbers(tmp_path / "new" / "adapter.safetensors") <= 1200
    assert RunConfig.load(tmp_path / "new").budget == 1200
    metrics = [read_json(folder / "metrics.json") for folder in (source, tmp_path / "new")]
    assert metrics[0]["seconds"]["supernet"] == metrics[1]["seconds"]["supernet"] > 0
    assert "tested" not in metrics[1]


def test_a_search_anew_that_was_stopped_while_copying_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["search", finished(), "--out", tmp_path / "new", "--budget=1.2k"]
    copy, copied = shutil.copyfile, []

    def stop(source: Any, target: Any) -> Any:
        copied.append(source)
        if len(copied) == 2:
            raise KeyboardInterrupt
        return copy(source, target)

    monkeypatch.setattr(shutil, "copyfile", stop)
    assert call(*words).code == 130
    succeed(*words)
    assert RunConfig.load(tmp_path / "new").budget == 1200
    succeed(*words)


def test_a_trained_supernet_is_searched_in_place_with_other_settings_once(tmp_path: Path) -> None:
    settings = timm_settings(**FAST)
    succeed("train", *flags(settings), "--out", tmp_path / "run")
    succeed("search", tmp_path / "run", "--budget=1k", "--generations=1")
    assert RunConfig.load(tmp_path / "run").budget == 1000
    assert len((tmp_path / "run" / "search.jsonl").read_text().splitlines()) == 17
    succeed("search", tmp_path / "run", "--budget=1k")
    done = call("search", tmp_path / "run", "--budget=2k")
    assert done == Outcome(
        2,
        "",
        f"glora: {tmp_path / 'run'} has been searched already: give --out NEW to search its supernet once more\n",
    )
    assert RunConfig.load(tmp_path / "run").budget == 1000


def test_the_number_of_workers_may_change_and_pruning_may_not(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install 'glora[ray]'")
    succeed("search", finished(), "--out", tmp_path / "new", "--generations=1", "--budget=2k")
    before = (tmp_path / "new" / "search.jsonl").read_bytes()
    succeed("search", tmp_path / "new", "--workers=3")  # nothing is left to do, so none is started
    assert RunConfig.load(tmp_path / "new").workers == 3
    assert (tmp_path / "new" / "search.jsonl").read_bytes() == before
    settings = flags(timm_settings(finetune_epochs=2, generations=1, budget=2000))
    done = call("run", *settings, "--no-prune", "--out", tmp_path / "new")
    assert done.code == 2
    assert "holds a run with prune=True, now it is False" in done.err


def test_a_smaller_population_can_be_searched(tmp_path: Path) -> None:
    succeed("search", finished(), "--out", tmp_path / "new", "--population", "4")
    assert len((tmp_path / "new" / "search.jsonl").read_text().splitlines()) == 1 + 3 * 4


@pytest.mark.parametrize("name", ["random", "ageing", "nsga2", "surrogate", "samplewise"])
def test_a_supernet_can_be_searched_by_another_strategy(name: str, tmp_path: Path) -> None:
    succeed("search", finished(), "--out", tmp_path / "new", "--strategy", name)
    header, *candidates = (tmp_path / "new" / "search.jsonl").read_text().splitlines()
    assert json.loads(header)["settings"]["strategy"] == RunConfig.load(tmp_path / "new").strategy == name
    assert len(candidates) == 3 * 8


def test_a_merge_half_way_gets_a_file_of_its_own_that_says_so(tmp_path: Path) -> None:
    folder = copy_of(finished(), tmp_path)
    before = (folder / "merged.safetensors").read_bytes()
    half = Path(json.loads(succeed("merge", folder, "--alpha", "0.5", "--json").out)["merged"])
    assert half == folder / "merged-0.5.safetensors"
    assert (folder / "merged.safetensors").read_bytes() == before
    for path, alpha in ((half, "0.5 of the way from the pretrained weights"), (folder / "merged.safetensors", "1")):
        shown = fields_of(succeed("info", path).out.split("\n  ")[0])
        assert shown["alpha"] == alpha
        assert re.fullmatch(r"logits of merged and adapted model differ by at most \d\.\de-\d\d", shown["verified"])


def test_the_call_that_info_shows_loads_a_merged_file(tmp_path: Path) -> None:
    path = finished() / "merged.safetensors"
    plain = eval(succeed("info", path).out.split("load by")[1].split("\n")[0], {"timm": timm})
    assert plain.state_dict().keys() == load_file(path).keys()
    assert all(tensor.equal(load_file(path)[key]) for key, tensor in plain.state_dict().items())


def test_a_merge_may_stop_half_way_to_the_tuned_weights(tmp_path: Path) -> None:
    files = {}
    for alpha in ("0", "0.25", "1"):
        files[alpha] = tmp_path / f"{alpha}.safetensors"
        done = succeed("merge", finished(), "--alpha", alpha, "--out", files[alpha], "--json")
        assert json.loads(done.out)["alpha"] == float(alpha)
    none, some, full = (load_file(files[alpha]) for alpha in ("0", "0.25", "1"))
    assert same_tensors(files["1"], finished() / "merged.safetensors")
    for key, value in none.items():
        torch.testing.assert_close(some[key], value + 0.25 * (full[key] - value), rtol=1e-4, atol=1e-6)
    assert any(not torch.equal(none[key], full[key]) for key in none if not key.startswith("head."))


def test_a_merge_of_an_adapter_file_lies_beside_it(tmp_path: Path) -> None:
    shutil.copy(finished() / "adapter.safetensors", tmp_path / "pets.safetensors")
    done = succeed("merge", tmp_path / "pets.safetensors", "--json")
    assert json.loads(done.out)["merged"] == str(tmp_path / "pets-merged.safetensors")
    assert same_tensors(tmp_path / "pets-merged.safetensors", finished() / "merged.safetensors")
