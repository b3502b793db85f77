"""A word that is nearly right: the message says which one may have been meant, where one is near."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import glora
from glora.config import RunConfig
from glora.data.made import make_data
from glora.errors import GloraError, near_miss
from glora.find import check_signal
from glora.gains import check_gains, layer_gains
from glora.peers import peer
from glora.shapes import LayerShape
from glora.space import SearchSpace
from glora.strategies import make_strategy
from glora.structure import Form
from glora.train import TrainSettings
from helpers import MLP
from peers.vits import vit
from small_run import call


def loaded(folder: Path, setting: str) -> RunConfig:
    (folder / "config.yaml").write_text(f"data: digits\nmodel: test_vit\n{setting}: 3\n")
    return RunConfig.load(folder)


CASES: dict[str, tuple[Callable[[Path], object], str]] = {
    "augment": (lambda _: TrainSettings(augment="randaug"), "randaugment"),
    "baselines": (lambda _: RunConfig(data="x", model="y", baselines="probe-lora"), "probe+lora"),
    "config.yaml": (lambda folder: loaded(folder, "finetune_epoch"), "finetune_epochs"),
    "data set": (lambda folder: make_data("texture", folder / "x"), "textures"),
    "fitness": (lambda _: check_signal("acuracy", None), "accuracy"),
    "form": (lambda _: Form.parse("vektor"), "vector"),
    "form with a rank": (lambda _: Form.parse("rank4"), "rank-<r>"),
    "gains": (lambda _: glora.adapt(MLP(), gains="balance"), "balanced"),
    "gains of a form": (lambda _: check_gains({"a": {"B.vektor": 1.0}}, ["a"]), "B.vector"),
    "gains of a layer": (lambda _: check_gains({"frist": {}}, ["first", "second"]), "first"),
    "lr_scale": (lambda _: TrainSettings(lr_scale={"scaler": 2.0}), "scalar"),
    "paths": (lambda _: TrainSettings(paths="sandwhich"), "sandwich"),
    "places of an adapter": (lambda _: peer("adapter", vit(), places="atention"), "attention"),
    "precision": (lambda _: TrainSettings(precision="pf32"), "fp32"),
    "peer's setting": (lambda _: peer("lora", MLP(), rnk=4), "rank"),
    "select": (lambda _: check_signal("loss", "smalest"), "smallest"),
    "space": (lambda _: RunConfig(data="x", model="y", space="repadapter8"), "repadapter-<r>"),
    "space's entry": (lambda _: SearchSpace.from_dict({"layer": {}}), "layers"),
    "strategy": (lambda _: make_strategy("evolutoin", SearchSpace().bind({"a": LayerShape(2, 2)})), "evolution"),
}


@pytest.mark.parametrize("name", CASES)
def test_what_may_have_been_meant_is_said(name: str, tmp_path: Path) -> None:
    attempt, meant = CASES[name]
    with pytest.raises(GloraError, match=rf"; did you mean '{re.escape(meant)}'\?$"):
        attempt(tmp_path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["serch", "runs/x"], "invalid choice: 'serch' .*; did you mean 'search'?"),
        (["data", "mkae", "textures", "x"], "invalid choice: 'mkae' .*; did you mean 'make'?"),
        (["merge", "x", "--alhpa=1"], "unrecognized arguments: --alhpa=1; did you mean '--alpha'?"),
        (["run", "--data=x", "--model=y", "--skip-bda"], "--skip.bda; did you mean '--skip-bad'?"),
        (["run", "--data=x", "--model=y", "--no-skip-bda"], "--no.skip.bda; did you mean '--no-skip-bad'?"),
        (["run", "--data=x", "--model=y", "--fine_tune_epochs=3"], "did you mean '--finetune-epochs'?"),
        (["run", "--data=x", "--model=y", "--precision=pf32"], "not pf32; did you mean 'fp32'?"),
        (["eval", "x", "--data=y", "--split=valid"], "not valid; did you mean 'val'?"),
        (
            ["run", "--config=c.yaml"],
            "^glora run: .* setting 'finetune_epoch'; did you mean 'finetune_epochs'?",
        ),
        (["run", "--data=x", "--model=y", "--lr-scale={vectr: 2}"], "not for 'vectr'; did you mean 'vector'?"),
    ],
)
def test_so_does_the_command_line(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "c.yaml").write_text("data: x\nmodel: y\nfinetune_epoch: 3\n")
    monkeypatch.chdir(tmp_path)
    done = call(*words)
    assert done.code == 2
    assert done.out == ""
    (line,) = done.err.splitlines()
    assert re.search(message.replace("?", r"\?"), line), line


def test_nothing_is_guessed_where_nothing_is_near() -> None:
    assert near_miss("colour", RunConfig.__dataclass_fields__) == ""
    assert near_miss(None, ["x"]) == ""
    with pytest.raises(GloraError, match=r"gains are 'balanced' or 'paper', not 'off'$"):
        layer_gains(torch.ones(2, 2), None, LayerShape(2, 2), 1, "off")  # type: ignore[arg-type]
    for words in (["frobnicate"], ["run", "--data=x", "--model=y", "--colour=red"]):
        assert "did you mean" not in call(*words).err
