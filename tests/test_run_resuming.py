"""The pipeline: going on after a stop, and what a run folder refuses."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import glora.data.samples
from glora.config import RunConfig
from glora.errors import BackboneError, BudgetError, ConfigError, DataError, GloraError
from glora.run import Run
from small_run import (
    FILES,
    Stopped,
    Told,
    bytes_of,
    checkpoint_always,
    copy_of,
    finished,
    names_in,
    paint,
    run_of,
    stopping,
    timm_settings,
    write_weights,
)

pytestmark = pytest.mark.usefixtures("single_threaded")


# Going on


@pytest.mark.parametrize(
    ("label", "done"),
    [
        *(("supernet", epoch) for epoch in (1, 3, 5)),
        *(("search", candidate) for candidate in (1, 8, 13, 24)),
        *(("fine-tuning", epoch) for epoch in (1, 2)),
    ],
)
def test_a_run_that_was_stopped_goes_on_to_the_same_files(
    label: str, done: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint_always(monkeypatch)
    settings = timm_settings(finetune_epochs=2)
    with pytest.raises(Stopped):
        run_of(settings, tmp_path, stopping(label, done)).merge()
    assert not (tmp_path / "adapter.safetensors").exists()
    told = Told()
    run_of(settings, tmp_path, told).merge()
    assert told.bars == {"supernet": ["supernet", "search", "fine-tuning"]}.get(label, ["search", "fine-tuning"])
    names = ("adapter.safetensors", "merged.safetensors", "supernet.safetensors", "search.jsonl", "structure.json")
    assert bytes_of(tmp_path, *names) == bytes_of(finished(), *names)
    assert names_in(tmp_path) == FILES - {"correct.json", "report.html"}


def test_nothing_is_trained_twice_after_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint_always(monkeypatch)
    with pytest.raises(Stopped):
        run_of(timm_settings(), tmp_path, stopping("supernet", 4)).train()
    assert {"state.safetensors", "train.jsonl"} <= names_in(tmp_path)
    assert "supernet.safetensors" not in names_in(tmp_path)
    steps: list[None] = []
    original = torch.optim.AdamW.step
    monkeypatch.setattr(
        torch.optim.AdamW, "step", lambda *args, **named: steps.append(None) or original(*args, **named)
    )
    run_of(timm_settings(), tmp_path).train()
    assert len(steps) == 3  # of the fifth and last epoch
    assert not (tmp_path / "state.safetensors").exists()
    run_of(timm_settings(), tmp_path).train()
    assert len(steps) == 3


def test_a_finished_run_is_only_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copy_of(finished(), tmp_path)
    before = {name: (folder / name).read_bytes() for name in FILES - {"config.yaml", "metrics.json", "report.html"}}
    monkeypatch.setattr("glora.run.train_supernet", lambda *args, **kwargs: pytest.fail("trained again"))
    monkeypatch.setattr("glora.find.Evaluator.score", lambda *args: pytest.fail("evaluated again"))
    run = Run(RunConfig.load(folder), Told())
    run.merge()
    run.report()
    assert before == {name: (folder / name).read_bytes() for name in before}


def test_a_mended_setting_is_taken_while_nothing_has_been_done(tmp_path: Path) -> None:
    with pytest.raises(GloraError, match=r"the loss of epoch \d+ is nan: lower lr"):
        run_of(timm_settings(lr=1e18), tmp_path).train()
    run_of(timm_settings(lr=1e-2, epochs=1), tmp_path).train()
    assert (tmp_path / "supernet.safetensors").is_file()


# What is refused


@pytest.mark.parametrize(
    ("name", "value"),
    [("lr", 0.02), ("budget", 2000), ("space", "paper"), ("population", 9), ("seed", 3), ("baselines", "none")],
)
def test_a_folder_with_another_setting_is_refused_by_name(name: str, value: Any) -> None:
    settings = timm_settings(finetune_epochs=2)
    was = {**settings, "space": "default", "seed": 0, "baselines": "probe+lora"}[name]
    message = f"holds a run with {name}={was}, now it is {value}: give the same settings"
    with pytest.raises(ConfigError, match=re.escape(message)):
        run_of({**settings, name: value}, finished())


@pytest.mark.parametrize(
    "change",
    [
        lambda data: (data / "red" / "07.png").unlink(),
        lambda data: (data / "red" / "07.png").rename(data / "blue" / "99.png"),
        lambda data: (data / "red" / "07.png").rename(data / "red" / "renamed.png"),
        lambda data: paint(data, {"violet": 5}),
    ],
)
def test_data_that_changed_since_are_refused(tmp_path: Path, change: Callable[[Path], object]) -> None:
    settings = timm_settings(data=str(paint(tmp_path / "data")), epochs=1)
    run_of(settings, tmp_path / "run").train()
    before = names_in(tmp_path / "run")
    run_of(settings, tmp_path / "run")
    change(tmp_path / "data")
    with pytest.raises(ConfigError, match=r"holds a run on other images of .*data .*put them back, or start anew"):
        run_of(settings, tmp_path / "run")
    assert names_in(tmp_path / "run") == before


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (
            {"space": "lora-4", "budget": 100},
            BudgetError,
            r"100 adapter parameters or fewer: feasible budgets are 21,504",
        ),
        ({"model": "test_vitt"}, BackboneError, "unknown backbone 'test_vitt': did you mean test_vit"),
        ({"checkpoint": "nowhere.safetensors"}, BackboneError, "no such checkpoint file: nowhere.safetensors"),
        ({"layers": "block.*"}, GloraError, r"layers='block\.\*' matches no layer .* near misses: blocks\."),
        ({"size": 40}, BackboneError, "test_vit takes sizes divisible by 16, not 40"),
        ({"drop_path": 1.0}, BackboneError, "drop_path must be at least 0 and below 1, not 1.0"),
        ({"val_fraction": 0.9}, DataError, "val_fraction 0.9 and test_fraction 0.2"),
        ({"data": "nowhere"}, DataError, "nowhere: no such folder"),
    ],
)
def test_what_cannot_be_is_found_before_any_image_is_decoded(
    settings: dict[str, Any], error: type[GloraError], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(glora.data.samples, "decode_images", lambda *args: pytest.fail("an image was decoded"))
    with pytest.raises(error, match=message):
        run_of(timm_settings(**settings), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_supernet_of_other_weights_is_refused(tmp_path: Path) -> None:
    weights = write_weights(tmp_path / "weights.safetensors")
    settings = timm_settings(checkpoint=str(weights), epochs=1)
    run_of(settings, tmp_path / "run").train()
    write_weights(weights, seed=1)
    with pytest.raises(GloraError, match=r"supernet.safetensors was trained on another backbone \(test_vit\)"):
        run_of(settings, tmp_path / "run").train()
