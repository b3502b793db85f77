"""What a found subnet is compared with, and that the test images are looked at once, at the very end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import glora
import glora.run
from glora import presets
from glora.blend import folded
from glora.checkpoint import load_merged, load_supernet, read_metadata
from glora.comparison import Comparison, lora_rank
from glora.config import RunConfig
from glora.data import LabelledData
from glora.errors import DataError
from glora.evaluate import predict_logits
from glora.run import Run
from helpers import MLP
from small_run import (
    Told,
    adapter_numbers,
    checkpoint_modules,
    complete,
    copy_of,
    finished,
    names_in,
    paint_split,
    read_json,
    run_of,
    timm_settings,
)

pytestmark = pytest.mark.usefixtures("single_threaded")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A finished run, to be changed."""
    return copy_of(finished(), tmp_path)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows whenever the test samples are asked for."""
    seen: list[str] = []
    original = LabelledData.test.func  # type: ignore[attr-defined]

    def spy(self: LabelledData) -> Any:
        seen.append(self.name)
        return original(self)

    monkeypatch.setattr(LabelledData, "test", property(spy))
    return seen


def table(run: Run) -> dict[str, dict[str, Any]]:
    return {row["method"]: row for row in run.metrics.values["table"]}


def forget(folder: Path, **values: Any) -> None:
    """Make a run folder forget its table and that it was tested."""
    path = folder / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {"table": [], "tested": False} | values))


# lora_rank


@pytest.mark.parametrize(
    ("size", "rank"),
    [(0, 1), (1, 1), (27, 1), (28, 2), (54, 2), (55, 3), (270, 10), (271, 11), (1_000_000, 37_038)],
)
def test_the_rank_is_the_smallest_that_gives_lora_as_many_parameters(size: int, rank: int) -> None:
    net = glora.adapt(MLP())  # layers 6 -> 8 and 8 -> 5: a rank costs 14 + 13
    assert lora_rank(net, size) == rank


@pytest.mark.parametrize("size", [100, 5_376, 5_377, 20_000])
def test_that_rank_against_adapted_models(size: int, tmp_path: Path) -> None:
    run = run_of(timm_settings(), tmp_path)
    rank = lora_rank(run.net, size)
    assert run.adapted(presets.lora(rank)).bound.largest >= size
    assert rank == 1 or run.adapted(presets.lora(rank - 1)).bound.largest < size


# The validation figures


def test_everything_is_compared_under_equal_conditions(folder: Path) -> None:
    run = Run(RunConfig.load(folder), Told())
    rows = table(run)
    assert list(rows) == [
        "linear probe",
        "uniform LoRA, rank 1",
        "3 random subnets, mean",
        "random search",
        "searched subnet",
        "searched subnet, fine-tuned",
    ]
    assert rows["linear probe"]["parameters"] == 0
    assert rows["uniform LoRA, rank 1"]["parameters"] == 6 * (256 + 128 + 256 + 256) >= 3000
    assert rows["searched subnet"]["parameters"] == rows["searched subnet, fine-tuned"]["parameters"] <= 3000
    for baseline in ("linear probe", "uniform LoRA, rank 1"):
        assert rows[baseline]["note"] == "trained alone for 7 epochs"  # 5 of the supernet and 2 of fine-tuning
    assert rows["searched subnet"]["note"] == "weights of the supernet"
    assert rows["searched subnet, fine-tuned"]["note"] == "2 further epochs alone"
    assert rows["searched subnet"]["val_accuracy"] == run.search().winner.score.accuracy


def test_baselines_are_trained_as_long_as_supernet_and_fine_tuning_together(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (folder / "baselines").iterdir():
        path.unlink()
    fitted: dict[str, int] = {}
    original = Run.fit

    def fit(self: Run, net: Any, label: str, state: Path, settings: Any, **others: Any) -> None:
        fitted[label] = settings.epochs
        original(self, net, label, state, settings, **others)

    monkeypatch.setattr(Run, "fit", fit)
    Comparison(Run(RunConfig.load(folder), Told())).validate()
    assert fitted == {"linear probe": 7, "uniform LoRA, rank 1": 7}
    for name in ("linear-probe", "uniform-LoRA-rank-1"):
        file = f"baselines/{name}.safetensors"
        assert (folder / file).read_bytes() == (finished() / file).read_bytes()


def test_everything_is_trained_on_the_training_images_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    original = glora.run.train_supernet

    def spy(net: Any, train: Any, val: Any, *others: Any, **named: Any) -> Any:
        given.append((train, val))
        return original(net, train, val, *others, **named)

    monkeypatch.setattr("glora.run.train_supernet", spy)
    run = complete(timm_settings(epochs=1, finetune_epochs=1), tmp_path / "run")
    probed, *alone = given
    assert probed == (run.data.train, run.data.val)
    assert alone == 3 * [(run.data.train, None)]


def test_the_figures_are_those_of_the_files(folder: Path) -> None:
    run = Run(RunConfig.load(folder), Told())
    test = run.data.test
    assert test is not None
    for name, space, file in (
        ("linear probe", presets.frozen(), "linear-probe"),
        ("uniform LoRA, rank 1", presets.lora(1), "uniform-LoRA-rank-1"),
    ):
        net = run.adapted(space)
        load_supernet(net, folder / "baselines" / f"{file}.safetensors")
        for key, part in (("val_accuracy", run.data.val), ("test_accuracy", test)):
            accuracy = (predict_logits(net, part).argmax(1) == part.labels).double().mean().item()
            assert table(run)[name][key] == accuracy


def test_random_subnets_are_within_the_budget_and_their_mean_is_right(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget(folder)
    run = Run(RunConfig.load(folder), Told())
    comparison = Comparison(run)
    structures = comparison._legal_structures()
    assert len(set(structures)) == 3
    assert all(run.net.size(structure) <= 3000 for structure in structures)
    comparison.validate()
    row = table(run)["3 random subnets, mean"]
    accuracies = []
    for structure in structures:
        with run.net.using(structure):
            found = predict_logits(run.net, run.data.val).argmax(1) == run.data.val.labels
        accuracies.append(found.double().mean())
    stacked = torch.stack(accuracies)
    assert row["val_accuracy"] == pytest.approx(stacked.mean().item())
    assert row["val_spread"] == pytest.approx(stacked.std(correction=0).item())
    assert row["parameters"] == round(sum(run.net.size(structure) for structure in structures) / 3)


def test_the_table_is_the_same_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def figures() -> list[dict[str, Any]]:
        rows = json.loads((folder / "metrics.json").read_text("utf-8"))["table"]
        return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]

    before = figures()
    monkeypatch.setattr("glora.run.train_supernet", lambda *args, **kwargs: pytest.fail("trained again"))
    comparison = Comparison(Run(RunConfig.load(folder), Told()))
    comparison.validate()
    comparison.validate()
    comparison.test()
    assert figures() == before


def test_without_baselines_and_random_subnets_the_subnet_stands_alone(tmp_path: Path) -> None:
    run = complete(timm_settings(epochs=1, baselines="none", random_subnets=0), tmp_path / "run")
    assert list(table(run)) == ["searched subnet"]
    assert table(run)["searched subnet"]["test_accuracy"] is not None
    assert not (tmp_path / "run" / "baselines").exists()


# The test images


def test_no_test_image_is_touched_before_the_very_end(tmp_path: Path, looks: list[str]) -> None:
    # the spy sees who asks; spoiling the files shows who decodes them some other way
    data = paint_split(tmp_path / "data")
    run = run_of(timm_settings(data=str(data), epochs=2, finetune_epochs=1), tmp_path / "run")
    for path in (data / "test").rglob("*.png"):
        path.write_bytes(path.read_bytes()[:60])
    run.merge()
    comparison = Comparison(run)
    comparison.validate()
    run.report()
    assert run.data.summary()["test"] == 12
    assert looks == []
    assert [row["test_accuracy"] for row in table(run).values()] == [None] * 6
    with pytest.raises(DataError, match=r"none of 12 images can be read, the first: .*test.blue.00.png"):
        comparison.test()
    assert len(looks) > 0
    assert not run.metrics.tested


def test_the_test_images_are_looked_at_once_only(folder: Path, looks: list[str]) -> None:
    forget(folder)
    first = Run(RunConfig.load(folder), Told())
    comparison = Comparison(first)
    comparison.validate()
    assert looks == []
    comparison.test()
    found = table(first)
    assert first.metrics.tested
    assert all(row["test_accuracy"] is not None for row in found.values())
    looks.clear()
    comparison.test()
    again = Comparison(Run(RunConfig.load(folder), Told()))
    again.validate()
    again.test()
    assert {name: row["test_accuracy"] for name, row in table(again.run).items()} == {
        name: row["test_accuracy"] for name, row in found.items()
    }
    assert looks == []


def test_the_test_is_announced_and_nothing_is_said_the_second_time(folder: Path) -> None:
    forget(folder)
    for said in (["test: the held-out images are looked at now, once"], []):
        told = Told()
        comparison = Comparison(Run(RunConfig.load(folder), told))
        comparison.validate()
        told.said.clear()
        comparison.test()
        assert told.said == said


def test_the_choice_is_made_before_the_test_and_does_not_change_by_it(folder: Path) -> None:
    before = (folder / "structure.json").read_bytes(), (folder / "adapter.safetensors").read_bytes()
    forget(folder)
    Comparison(Run(RunConfig.load(folder), Told())).test()
    assert before == ((folder / "structure.json").read_bytes(), (folder / "adapter.safetensors").read_bytes())


def test_data_without_test_images_are_never_asked_for_any(tmp_path: Path) -> None:
    data = paint_split(tmp_path / "data", ("train", "val"))
    run = complete(timm_settings(data=str(data), epochs=1), tmp_path / "run")
    assert not run.metrics.tested
    assert {row["test_accuracy"] for row in table(run).values()} == {None}


# Evidence


def test_what_each_method_is_right_on_is_kept_and_its_mean_is_the_table(folder: Path) -> None:
    kept, rows = read_json(folder / "correct.json"), table(Run(RunConfig.load(folder), Told()))
    for part in ("val", "test"):
        assert set(kept[part]) == set(rows) - {"3 random subnets, mean"}
        for method, bits in kept[part].items():
            assert len(bits) == 12
            assert bits.count("1") / 12 == rows[method][f"{part}_accuracy"]


def test_gains_and_verdict_follow_from_what_is_kept(folder: Path) -> None:
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


def test_random_search_scores_as_many_by_the_same_fitness_and_is_not_the_search(folder: Path) -> None:
    (first, *searched), (header, *drawn) = (
        [json.loads(line) for line in (folder / f"{name}.jsonl").read_text("utf-8").splitlines()]
        for name in ("search", "random")
    )
    assert len(drawn) == len(searched) == 24
    assert {one["origin"] for one in drawn} == {"random"}
    assert all(one["size"] <= 3000 for one in drawn)
    assert not {json.dumps(one["structure"]) for one in drawn} & {json.dumps(one["structure"]) for one in searched}
    assert header["settings"]["about"] == first["settings"]["about"]
    best = max(drawn, key=lambda one: (one["accuracy"], -one["loss"], -one["size"]))
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


class Stopped(Exception):
    """Stands for a kill."""


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
    for module in checkpoint_modules():
        monkeypatch.setattr(module, "_CHECKPOINT_SECONDS", 0.0)
    folder = copy_of(everything, tmp_path)
    forget(folder, retrained=[])
    for name in undone:
        (folder / name).unlink()

    def stop(at: str, now: int) -> None:
        if (at, now) == (label, done):
            raise Stopped

    def go(told: Told) -> None:
        run = Run(RunConfig.load(folder), told)
        run.merge()
        Comparison(run).validate()

    with pytest.raises(Stopped):
        go(Told(stop))
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
