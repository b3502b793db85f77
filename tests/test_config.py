"""Settings: counts, ranges, what config.yaml keeps, and which settings a run folder is compared by."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from glora import SearchSpace, presets
from glora.config import RunConfig, parse_count
from glora.errors import ConfigError, StructureError
from glora.shapes import LayerShape
from glora.strategies import Evolution, Surrogate

BASE = {"data": "pictures", "model": "test_vit", "precision": "fp32"}


def config(**settings: Any) -> RunConfig:
    return RunConfig(**{**BASE, **settings})


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (300_000, 300_000),
        (300_000.0, 300_000),
        ("300000", 300_000),
        ("300k", 300_000),
        ("300K", 300_000),
        ("0.3M", 300_000),
        ("0.3m", 300_000),
        ("1_000", 1000),
        ("1,000,000", 1_000_000),
        ("12.5k", 12_500),
        ("2b", 2_000_000_000),
        (" 7 ", 7),
        (0, 0),
    ],
)
def test_counts_as_people_write_them(text: str | int | float, count: int) -> None:
    assert parse_count(text) == count
    assert isinstance(parse_count(text), int)


@pytest.mark.parametrize("text", ["", "k", "lots", "-5", -5, "300kk", "3 k", "1.2.3", ".5M", "1e6", "nan", "0x10", "½"])
def test_what_is_no_count(text: str | int) -> None:
    with pytest.raises(ConfigError, match=r"is no number of parameters: write 300000, 300k or 0\.3M"):
        parse_count(text)


@pytest.mark.parametrize("text", ["0.3", 0.3, "1.5", "0.0001k"])
def test_half_a_parameter_is_refused_rather_than_rounded(text: str | float) -> None:
    # "0.3" is 0.3M without its M: as a budget of 0 it would silently give a linear probe
    with pytest.raises(ConfigError, match=f"budget '?{text}"):
        parse_count(text)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"eval_batch_size": 0}, "eval_batch_size is 1 or more, not 0"),
        ({"finetune_lr": -1.0}, "^finetune_lr must not be negative, but is -1.0"),
        ({"finetune_epochs": -1}, "finetune_epochs is 0 or more, not -1"),
        ({"random_subnets": -1}, "random_subnets is 0 or more, not -1"),
        ({"seed": -1}, "seed is 0 or more, not -1"),
        ({"epochs": 0}, "epochs must be at least 1, not 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"lr": -1.0}, "lr must not be negative, but is -1.0"),
        ({"lr": float("nan")}, "lr must not be negative, but is nan"),
        ({"weight_decay": -0.1}, "weight_decay must not be negative, but is -0.1"),
        ({"warmup_epochs": -1}, "warmup_epochs must not be negative, but is -1"),
        ({"precision": "fp8"}, "precision must be one of fp32, bf16, fp16, not 'fp8'"),
        ({"budget": "lots"}, "budget 'lots' is no number of parameters"),
        ({"space": "lorra-4"}, "space 'lorra-4' is unknown: default, paper, lora-<r>, .*, frozen"),
        ({"space": "lora"}, "space 'lora' is unknown"),
        ({"space": "lora-0"}, "space 'lora-0' is unknown"),
        ({"space": "ssf-4"}, "space 'ssf-4' is unknown"),
    ],
)
def test_settings_out_of_range_are_refused_at_once(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**setting)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"rank": 0}, "the rank of a search space is 1 or more, not 0"),
        ({"space": {"F": "vector"}}, "a search space has no entry 'F'"),
        ({"space": {"A": "wide"}}, "wide"),
        ({"space": {"C": "scalar"}}, "C.*scalar"),
    ],
)
def test_spaces_that_cannot_be_are_refused_at_once(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(StructureError, match=message):
        config(**setting)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"population": 20, "mutants": 15, "crossovers": 6}, "population"),
        ({"population": 0}, "population"),
        ({"generations": -1}, "generations"),
        ({"parents": 51}, "parents"),
        ({"mutants": -1}, "mutants"),
        ({"mutation": 1.5}, "mutation|probability"),
        ({"mutation": 1.5, "strategy": "ageing"}, "ageing: the probability of a mutation is between 0 and 1, not 1.5"),
        ({"generations": -1, "strategy": "random"}, "random: generations is 0 or more"),
        ({"strategy": "luck"}, "strategy 'luck' is unknown: evolution, random"),
    ],
)
def test_settings_of_the_search_are_refused_before_hours_of_training(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**setting)


@pytest.mark.parametrize(
    ("name", "space"),
    [
        ("default", SearchSpace(3)),
        ("paper", SearchSpace.paper(3)),
        ("lora-8", presets.lora(8)),
        ("repadapter-12", presets.repadapter(12)),
        ("ssf", presets.ssf()),
        ("ia3", presets.ia3()),
        ("bitfit", presets.bitfit()),
        ("prompt", presets.prompt()),
        ("frozen", presets.frozen()),
        ({"A": "vector", "B": ["rank-3", "none"]}, SearchSpace(3, A="vector", B=["rank-3", "none"])),
        ({"rank": 5}, SearchSpace(5)),
        ({"layers": {"*.fc1": {"B": "none"}}}, SearchSpace(3, layers={"*.fc1": {"B": "none"}})),
    ],
)
def test_spaces_by_name_and_by_mapping(name: str | dict[str, Any], space: SearchSpace) -> None:
    assert config(space=name, rank=3).search_space() == space


def test_the_run_folder_is_named_after_the_data_unless_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert config(data="some/where/pets/").folder == Path("runs/pets")
    assert config(data="digits").folder == Path("runs/digits")
    assert config(out="elsewhere/x").folder == Path("elsewhere/x")
    (tmp_path / "birds").mkdir()
    monkeypatch.chdir(tmp_path / "birds")
    assert config(data=".").folder == Path("runs/birds")


def test_auto_precision_is_resolved_to_what_the_device_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for native in ("bf16", "fp32"):
        monkeypatch.setattr("glora.config.native_precision", lambda native=native: native)
        found = config(precision="auto")
        assert found.precision == found.train_settings().precision == native
        found.save(tmp_path)
        assert yaml.safe_load((tmp_path / "config.yaml").read_text())["precision"] == native


def test_a_budget_becomes_a_number() -> None:
    assert (config(budget="300k").budget, config(budget="300k").limit) == (300_000, 300_000)
    assert config(budget=0).limit == 0
    assert config().limit is None


def test_what_training_gets() -> None:
    found = config(epochs=7, lr=0.5, weight_decay=0.25, warmup_epochs=3, batch_size=9, seed=4)
    settings = found.train_settings()
    wanted = (7, 0.5, 0.25, 3, 9, "fp32", 4)
    names = ("epochs", "lr", "weight_decay", "warmup_epochs", "batch_size", "precision", "seed")
    assert tuple(getattr(settings, name) for name in names) == wanted
    assert found.train_settings(2) == replace(settings, epochs=2)
    augmented = [config(augment=name).train_settings().augment for name in (None, "none", "crop")]
    assert augmented == ["none", "none", "crop"]


def test_what_the_search_gets() -> None:
    numbers: dict[str, Any] = {"generations": 3, "population": 12, "parents": 4, "mutants": 5, "crossovers": 6}
    found = config(**numbers, mutation=0.3, seed=7)
    space = SearchSpace().bind({"fc": LayerShape(8, 6)})
    assert found.make_strategy(space, 50).settings == Evolution(space, 50, seed=7, probability=0.3, **numbers).settings
    assert config(strategy="surrogate").make_strategy(space).settings == Surrogate(space).settings


# config.yaml


def test_every_setting_comes_back_from_the_folder(tmp_path: Path) -> None:
    unusual = config(
        checkpoint="weights/ä.npz",
        size=48,
        budget="12.5k",
        rank=7,
        space={"A": ["vector", "none"], "layers": {"*.fc1": {"B": ["rank-2"]}}},
        layers="blocks.*",
        gains="paper",
        bias="keep",
        epochs=3,
        lr=1e-4,
        drop_path=0.0,
        augment="none",
        baselines="none",
        skip_bad=True,
        seed=11,
        out=str(tmp_path),
    )
    unusual.save(tmp_path)
    assert RunConfig.load(tmp_path) == unusual
    assert set(yaml.safe_load((tmp_path / "config.yaml").read_text("utf-8"))) == set(asdict(unusual))


def test_a_folder_that_was_moved_is_read_where_it_is_now(tmp_path: Path) -> None:
    config(out=str(tmp_path / "before")).save(tmp_path / "before")
    (tmp_path / "before").rename(tmp_path / "now")
    assert RunConfig.load(tmp_path / "now").folder == tmp_path / "now"


def test_what_is_no_run_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is no run folder: it has no config.yaml; make one with glora run"):
        RunConfig.load(tmp_path)
    for text, message in (
        ("a: [", "config.yaml is no readable YAML"),
        ("- 1\n", "config.yaml holds no settings"),
        ("", "config.yaml holds no settings"),
        ("data: x\nmodel: y\ncolour: red\n", "config.yaml: .*'colour'"),
        ("model: y\n", "config.yaml: .*'data'"),
    ):
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(ConfigError, match=message):
            RunConfig.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 7),
        ("lr", 0.5),
        ("augment", "flip"),
        ("budget", 9),
        ("space", "ssf"),
        ("strategy", "random"),
        ("space", {"A": "none"}),
        ("seed", 1),
        ("size", 8),
    ],
)
def test_another_setting_than_the_folders_is_named_with_both_values(tmp_path: Path, name: str, value: Any) -> None:
    before = config()
    before.save(tmp_path)
    for file in ("supernet.safetensors", "search.jsonl"):
        (tmp_path / file).touch()
    with pytest.raises(ConfigError) as caught:
        config(**{name: value}).check(tmp_path)
    message = f"{tmp_path} holds a run with {name}={getattr(before, name)}, now it is {value}: give the same settings"
    assert str(caught.value).startswith(message)


def test_the_same_settings_pass_wherever_the_folder_lies_now(tmp_path: Path) -> None:
    config(out="there", budget="3k", space={"A": ["vector", "none"]}).save(tmp_path)
    (tmp_path / "supernet.safetensors").touch()
    config(out="here", budget=3000, space={"A": ["vector", "none"]}).check(tmp_path)
    config().check(tmp_path / "nothing there")


def test_a_budget_for_training_is_read_like_one_for_the_search() -> None:
    config = RunConfig(data="digits", model="test_vit", train_budget="0.1M", budget="50k")
    assert (config.train_budget, config.train_settings().train_budget, config.limit) == (100_000, 100_000, 50_000)
