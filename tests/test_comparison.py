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
from glora.checkpoint import load_supernet
from glora.comparison import Comparison, lora_rank
from glora.config import RunConfig
from glora.data import LabelledData
from glora.errors import DataError
from glora.evaluate import predict_logits
from glora.run import Run
from helpers import MLP
from small_run import Told, complete, copy_of, finished, paint_split, run_of, timm_settings
from tables import forget, table

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
