"""What a comparison keeps as evidence, and a run with every comparison that there is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from glora.blend import folded
from glora.checkpoint import load_merged, read_metadata
from glora.comparison import Comparison
from glora.config import RunConfig
from glora.evaluate import predict_logits
from glora.run import Run
from small_run import (
    Stopped,
    Told,
    adapter_numbers,
    checkpoint_always,
    complete,
    copy_of,
    finished,
    names_in,
    read_json,
    stopping,
    timm_settings,
)
from tables import forget, table

pytestmark = pytest.mark.usefixtures("single_threaded")


def test_what_each_method_is_right_on_is_kept_and_its_mean_is_the_table(tmp_path: Path) -> None:
    folder = copy_of(finished(), tmp_path)
    kept, rows = read_json(folder / "correct.json"), table(Run(RunConfig.load(folder), Told()))
    for part in ("val", "test"):
        assert set(kept[part]) == set(rows) - {"3 random subnets, mean"}
        for method, bits in kept[part].items():
            assert len(bits) == 12
            assert bits.count("1") / 12 == rows[method][f"{part}_accuracy"]


def test_gains_and_verdict_follow_from_what_is_kept(tmp_path: Path) -> None:
    folder = copy_of(finished(), tmp_path)
    kept, found = read_json(folder / "correct.json"), read_json(folder / "metrics.json")
    lora, tuned = "uniform LoRA, rank 1", "searched subnet, fine-tuned"
    for part in ("val", "test"):
        ours = {"random search": "searched subnet"}  # before fine-tuning, as random search is
        for one in found["gains"][part]:
            first, second = kept[part][ours.get(one["over"], tuned)], kept[part][one["over"]]
            assert one["difference"] * 12 == pytest.approx(first.count("1") - second.count("1"))
            assert one["low"] <= one["difference"] <= one["high"]
            assert one["images"] == 12
        assert [one["over"] for one in found["gains"][part]] == ["linear probe", lora, "random search"]
    assert f"over {lora}, with " in found["verdict"]
    assert "on 12 test images. It " in found["verdict"]
    assert found["verdict"] in (folder / "report.html").read_text("utf-8").replace("&#39;", "'")


def test_random_search_scores_as_many_by_the_same_fitness_and_is_not_the_search(tmp_path: Path) -> None:
    folder = copy_of(finished(), tmp_path)
    (first, *searched), (header, *drawn) = (
        [json.loads(line) for line in (folder / f"{name}.jsonl").read_text("utf-8").splitlines()]
        for name in ("search", "random")
    )
    assert len(drawn) == len(searched) == 24
    assert {one["origin"] for one in drawn} == {"random"}
    assert all(one["size"] <= 3000 for one in drawn)
    assert not {json.dumps(one["structure"]) for one in drawn} & {json.dumps(one["structure"]) for one in searched}
    # Nothing is chosen among its best.
    assert header["settings"]["about"] | {"keep": 20} == first["settings"]["about"]
    whole = [one for one in drawn if one["accuracy"] is not None]
    best = max(whole, key=lambda one: (one["accuracy"], -one["loss"], -one["size"]))
    row = table(Run(RunConfig.load(folder), Told()))["random search"]
    assert (row["val_accuracy"], row["parameters"]) == (best["accuracy"], best["size"])


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with all there is: a cross-validated fitness, a soup, all presets, structures trained alone."""
    out = tmp_path_factory.mktemp("everything") / "run"
    complete(timm_settings(**EVERYTHING), out)
    return out


EVERYTHING: dict[str, Any] = {
    "epochs": 3, "fitness": "cv", "folds": 2, "select": "soup", "baselines": "all", "tau": 3, "tau_epochs": 1
}  # fmt: skip


def test_all_presets_are_trained_and_as_large_as_they_should_be(everything: Path) -> None:
    run = Run(RunConfig.load(everything), Told())
    rows = table(run)
    sizes = {method: row["parameters"] for method, row in rows.items()}
    assert sizes["BitFit"] == sum(layer.shape.out_features for layer in run.net.layers.values())
    assert sizes["SSF"] == 3 * sizes["BitFit"]
    (uniform,) = (method for method in rows if method.startswith("uniform A rank"))
    assert sizes[uniform] >= run.size
    per_rank = sum(layer.shape.out_features + layer.shape.in_features for layer in run.net.layers.values())
    assert sizes[uniform] - per_rank < run.size or uniform.startswith("uniform A rank 1,")
    assert all(rows[m]["note"] == "trained alone for 3 epochs" for m in ("BitFit", "SSF", uniform))
    gains = read_json(everything / "metrics.json")["gains"]["test"]
    assert [one["over"] for one in gains] == [*list(rows)[:5], "random search"]


def test_a_soup_is_one_file_within_words(everything: Path) -> None:
    run = Run(RunConfig.load(everything), Told())
    found = run.search()
    assert found.soup is not None
    chosen = read_json(everything / "structure.json")
    size = adapter_numbers(everything / "adapter.safetensors")
    assert chosen["soup"]["size"] == size == run.size == table(run)["searched soup"]["parameters"]
    assert chosen["soup"]["weights"] == list(found.soup.weights)
    assert f"mean of {len(found.soup.weights)} subnets' weights" in table(run)["searched soup"]["note"]
    for file in ("adapter", "merged"):
        assert read_metadata(everything / f"{file}.safetensors").values["soup"] == found.soup.to_dict()
    merged = load_merged(run._backbone().model, everything / "merged.safetensors")
    with folded(run.net, found.soup):
        wanted = predict_logits(run.net, run.data.val)
    assert torch.allclose(predict_logits(merged, run.data.val), wanted, atol=1e-3)
    assert f"in the mean of {len(found.soup.weights)} subnets" in (everything / "report.html").read_text("utf-8")


def test_folds_are_kept_and_candidates_are_scored_on_all_labelled_images(everything: Path) -> None:
    assert {f"folds/{i}-of-2.safetensors" for i in (1, 2)} <= names_in(everything)
    header, *found = (json.loads(line) for line in (everything / "search.jsonl").read_text("utf-8").splitlines())
    assert header["settings"]["about"]["fitness"] == "cv"
    assert {one["samples"] for one in found} == {48}
    chosen = read_json(everything / "structure.json")
    assert chosen["best"] == min(found, key=lambda one: (-one["accuracy"], one["loss"], one["size"]))


def test_structures_trained_alone_give_a_rank_correlation(everything: Path) -> None:
    found = read_json(everything / "metrics.json")
    assert len(found["retrained"]) == 3
    pairs = [(one["supernet"], one["alone"]) for one in found["retrained"]]
    assert found["tau"]["gap"] == pytest.approx(sum(b - a for a, b in pairs) / 3)
    assert (found["tau"]["structures"], found["tau"]["epochs"]) == (3, 1)
    assert {f"retrained {i} of 3" for i in (1, 2, 3)} <= set(found["seconds"])


def test_all_of_it_is_read_and_not_done_again(
    everything: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_of(everything, tmp_path)
    before = {name: (folder / name).read_bytes() for name in names_in(folder) - {"metrics.json", "config.yaml"}}
    monkeypatch.setattr("glora.run.train_supernet", lambda *args, **kwargs: pytest.fail("trained again"))
    monkeypatch.setattr("glora.crossval.CrossEvaluator.outcomes", lambda *args: pytest.fail("evaluated again"))
    run = Run(RunConfig.load(folder), Told())
    run.merge()
    comparison = Comparison(run)
    comparison.validate()
    comparison.test()
    assert before == {name: (folder / name).read_bytes() for name in before}


SEARCHED = ["search.jsonl", "structure.json", "adapter.safetensors", "merged.safetensors"]


@pytest.mark.parametrize(
    ("label", "done", "undone"),
    [
        ("fold 2 of 2", 2, ["folds/2-of-2.safetensors", "random.jsonl", *SEARCHED]),
        ("search", 9, [*SEARCHED, "random.jsonl"]),
        ("random search", 9, ["random.jsonl"]),
        ("retrained 2 of 3", 1, []),
    ],
)
def test_what_was_stopped_goes_on_to_the_same(
    label: str, done: int, undone: list[str], everything: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint_always(monkeypatch)
    folder = copy_of(everything, tmp_path)
    forget(folder, retrained=[])
    for name in undone:
        (folder / name).unlink()

    def go(told: Told) -> None:
        run = Run(RunConfig.load(folder), told)
        run.merge()
        Comparison(run).validate()

    with pytest.raises(Stopped):
        go(stopping(label, done))
    go(Told())
    for name in ("random.jsonl", "folds/2-of-2.safetensors", *SEARCHED):
        assert (folder / name).read_bytes() == (everything / name).read_bytes(), name
    assert read_json(folder / "metrics.json")["retrained"] == read_json(everything / "metrics.json")["retrained"]
    assert not [name for name in names_in(folder) if "state" in name]


def test_the_smallest_of_those_that_are_not_worse(tmp_path: Path) -> None:
    run = complete(timm_settings(select="smallest", baselines="none", random_subnets=0), tmp_path / "run")
    found = run.search()
    assert found.winner.size == min(tie.candidate.size for tie in found.ties)
    assert adapter_numbers(tmp_path / "run" / "adapter.safetensors") == found.winner.size
    assert "not distinguishably worse" in table(run)["searched subnet"]["note"]
    assert "verdict" not in run.metrics.values
