"""The history of a search: going on to the same bytes, and what belongs to another search."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from glora import GLoRAModel, search
from glora.errors import CheckpointError
from glora.strategies import Candidate
from planted_net import SMALL, Counting, X, net_of, table

pytestmark = pytest.mark.usefixtures("single_threaded")


def stop_at(number: int) -> Callable[[Candidate], None]:
    def call(candidate: Candidate) -> None:
        if candidate.index == number:
            raise RuntimeError("enough")

    return call


@pytest.mark.parametrize("stop", [0, 7, 8, 20, 31])
def test_a_resumed_search_writes_the_same_bytes(stop: int, tmp_path: Path) -> None:
    labels = table(0)[0]
    wanted = search(net_of(), (X, labels), 70, history=tmp_path / "whole", **SMALL)
    with pytest.raises(RuntimeError, match="enough"):
        search(net_of(), (X, labels), 70, history=tmp_path / "parts", on_candidate=stop_at(stop), **SMALL)
    whole = (tmp_path / "whole").read_bytes()
    parts = (tmp_path / "parts").read_bytes()
    assert whole.startswith(parts)
    assert parts.count(b"\n") == stop + 2
    (tmp_path / "parts").write_bytes(parts + whole[len(parts) : len(parts) + 40])  # and a line half written
    seen: list[Candidate] = []
    found = search(net_of(), (X, labels), 70, history=tmp_path / "parts", on_candidate=seen.append, **SMALL)
    assert (tmp_path / "parts").read_bytes() == whole
    assert [c.index for c in seen] == [c.index for c in found.history]
    later = {c.index: c for c in found.completed}
    assert seen == [later.get(c.index, c) for c in found.history]
    assert found == wanted == search(net_of(), (X, labels), 70, **SMALL)


@pytest.mark.usefixtures("_no_evaluation")
def test_a_finished_search_is_replayed_without_an_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels, seen = table(0)[0], []
    with monkeypatch.context() as undone:
        undone.setattr("glora.find.Evaluator", Counting)
        wanted = search(net_of(), (X, labels), history=tmp_path / "s", **SMALL)
    found = search(
        net_of(), (X, labels), history=tmp_path / "s", on_candidate=seen.append, known=wanted.to_dict(), **SMALL
    )
    assert found == wanted
    assert tuple(seen) == wanted.history


def _one_bit(net: GLoRAModel, name: str) -> None:
    with torch.no_grad():
        net.model.get_parameter(name).view(torch.int32).view(-1)[0] ^= 1


@pytest.mark.parametrize(
    "name", ["first.support.A", "second.support.B_up", "second.support.E", "out.weight", "out.bias", "first.weight"]
)
@pytest.mark.usefixtures("_no_evaluation")
def test_the_history_of_another_supernet_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One bit of any weight, trained or frozen, makes another supernet, whose scores are others."""
    labels = table(0)[0]
    with monkeypatch.context() as undone:
        undone.setattr("glora.find.Evaluator", Counting)
        search(net_of(), (X, labels), history=tmp_path / "search.jsonl", **SMALL)
    whole = (tmp_path / "search.jsonl").read_bytes()
    net = net_of()
    _one_bit(net, name)
    with pytest.raises(CheckpointError, match=r"search\.jsonl belongs to another search: about\.\w+ is "):
        search(net, (X, labels), history=tmp_path / "search.jsonl", **SMALL)
    assert (tmp_path / "search.jsonl").read_bytes() == whole


def test_the_history_of_a_supernet_with_other_gains_is_refused(tmp_path: Path) -> None:
    """The same tensors stand for other weights then."""
    labels = table(0)[0]
    first = search(net_of(), (X, labels), history=tmp_path / "s", **SMALL)
    other = search(net_of(gains="paper"), (X, labels), **SMALL)
    assert first.history[0].structure == other.history[0].structure
    assert first.history[0].score != other.history[0].score
    with pytest.raises(CheckpointError, match="belongs to another search"):
        search(net_of(gains="paper"), (X, labels), history=tmp_path / "s", **SMALL)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budget": 60}, "budget is 70 there and 60 here"),
        ({"budget": None}, "budget is 70 there and null here"),
        ({"seed": 1}, "seed is 0 there and 1 here"),
        ({"generations": 4}, "generations is 3 there and 4 here"),
        ({"probability": 0.3}, r"probability is 0\.2 there and 0\.3 here"),
        ({"batch_size": 49}, r"about\.batch_size is 50 there and 49 here"),
        ({"precision": "bf16"}, r'about\.precision is "fp32" there and "bf16" here'),
        ({"prune": False}, r"about\.prune is true there and false here"),
    ],
)
def test_the_history_of_other_settings_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    labels = table(0)[0]
    options: dict[str, Any] = {"budget": 70, "history": tmp_path / "s", **SMALL}
    search(net_of(), (X, labels), **options)
    with pytest.raises(CheckpointError, match=f"s belongs to another search: {message}"):
        search(net_of(), (X, labels), **options | change)


def test_the_history_on_other_labels_is_refused(tmp_path: Path) -> None:
    labels = table(0)[0]
    search(net_of(), (X, labels), history=tmp_path / "s", **SMALL)
    changed = labels.clone()
    changed[77] = (changed[77] + 1) % 4
    for other in (changed, labels.roll(1)):
        with pytest.raises(CheckpointError, match=r's belongs to another search: about\.data is "\w+" there and "'):
            search(net_of(), (X, other), history=tmp_path / "s", **SMALL)
    with pytest.raises(CheckpointError, match=r"about\.data is"):
        search(net_of(), (X[:-1], labels[:-1]), history=tmp_path / "s", **SMALL)


def test_a_damaged_history_is_refused_by_name(tmp_path: Path) -> None:
    labels = table(0)[0]
    search(net_of(), (X, labels), history=tmp_path / "s", **SMALL)
    lines = (tmp_path / "s").read_bytes().splitlines(keepends=True)
    (tmp_path / "s").write_bytes(b"".join([*lines[:5], b"{broken}\n", *lines[6:]]))
    with pytest.raises(CheckpointError, match="s, line 6: damaged; cut the file off before that line"):
        search(net_of(), (X, labels), history=tmp_path / "s", **SMALL)
