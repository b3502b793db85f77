from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_bench import plan, write

from glora.bench import Plan
from glora.errors import ConfigError, GloraError
from glora.results.file import read_results

LORA = {"lora": {"peer": "lora"}}


def read(tmp_path: Path, **changes: Any) -> Plan:
    return Plan.read(write(tmp_path, plan(**changes)), tmp_path / "out")


def test_cells_are_data_sets_by_methods_by_ranks_by_seeds(tmp_path: Path) -> None:
    made = {"loc": {"make": "dsprites_loc", "test": 10}, "digits": "digits"}
    methods = {"linear": {"peer": "linear"}, "lora": {"peer": "lora", "ranks": [1, 4]}}
    cells = read(tmp_path, data=made, methods=methods).cells
    assert [(c.task.name, c.method, c.rank, c.seed) for c in cells] == [
        (task, method, rank, seed)
        for task in ("loc", "digits")
        for method, rank in (("linear", None), ("lora", 1), ("lora", 4))
        for seed in (0, 1)
    ]
    assert len({cell.key for cell in cells}) == len(cells)
    assert cells[0].task.source == str(tmp_path / "out" / "data" / "loc")


def test_a_list_of_folders_is_named_by_them_and_one_rate_needs_no_trials(tmp_path: Path) -> None:
    cells = read(tmp_path, data=["digits"], lr="1e-3").cells
    assert {cell.task.name for cell in cells} == {"digits"}
    assert cells[0].rates == (1e-3,)


def test_keys_depend_on_what_results_depend_on_and_on_nothing_else(tmp_path: Path) -> None:
    def key(**changes: Any) -> str:
        return read(tmp_path, **{"methods": LORA, **changes}).cells[0].key

    first = key()
    assert key(threads=None) == first
    assert key(seeds=[0]) == first
    weights = Path(str(plan()["checkpoint"]))
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(weights.read_bytes())
    assert key(checkpoint=str(moved)) == first
    train = plan()["train"]
    assert key(train=train | {"augment": "none"}) == first
    others = [
        key(train=train | {"augment": "flip"}),
        key(train=train | {"augment": "crop"}),
        key(final="train+val"),
        key(lr={"values": [1e-4, 2e-3], "seed": 0}),
        key(lr={"values": [1e-4, 1e-3], "seed": 1}),
        key(train={"epochs": 3, "batch_size": 12, "precision": "fp32"}),
        key(methods={"lora": {"peer": "lora", "rank": 2}}),
        key(methods={"lora": {"peer": "lora", "options": {"layers": "*.proj"}}}),
        key(data=["digits"]),
        key(size=48),
    ]
    assert len({first, *others}) == 1 + len(others)


def test_methods_of_the_same_training_share_a_supernet(tmp_path: Path) -> None:
    methods = {
        "one": {"peer": "glora", "options": {"budget": 1000}},
        "two": {"peer": "glora", "options": {"budget": 2000, "strategy": "random", "finetune_epochs": 1}},
        "other": {"peer": "glora", "options": {"space": "paper"}},
    }
    one, two, other = (cell.shared for cell in read(tmp_path, methods=methods, seeds=[0]).cells)
    assert one == two != other


def test_recorded_results_keep_their_keys() -> None:
    benchmarks = Path(__file__).parents[2] / "benchmarks"
    plan = Plan.read(benchmarks / "peers.yaml", Path("runs/peers"))
    recorded = read_results([benchmarks / "results" / "peers.jsonl"])
    assert {cell.key for cell in plan.cells} == {cell.key for cell in recorded.cells}


def test_seeds_are_apart_where_there_is_nothing_to_share(tmp_path: Path) -> None:
    assert len({cell.shared for cell in read(tmp_path, methods=LORA, lr=1e-3).cells}) == 2
    assert len({cell.shared for cell in read(tmp_path, methods=LORA).cells}) == 1  # the trials


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metods": {}}, "the plan has no 'metods': .*; did you mean 'methods'"),
        ({"model": None}, "model is needed"),
        ({"data": {}}, "data is needed, or protocol and root"),
        ({"data": ["a/pets", "b/pets"]}, "data: two folders are called pets: give them names"),
        ({"data": {"a": {"make": "textures", "folder": "b"}}}, "data: a: give either folder or make"),
        ({"data": {"a": {"folder": "b", "test": 3}}}, "data: a: test is for what is made"),
        ({"data": {"a": {"make": "textures", "groop": "x"}}}, "data: a has no 'groop': .*; did you mean 'group'"),
        ({"data": {"a": {"make": "texturs"}}}, "textures"),
        ({"methods": {"a": {"peer": "lorra"}}}, "methods: a: peer is not 'lorra': .*; did you mean 'lora'"),
        ({"methods": {"a": {}}}, "methods: a: peer is needed"),
        ({"methods": {"a": {"peer": "lora", "rank": 2, "ranks": [3]}}}, "give rank or ranks, not both"),
        ({"methods": {"a": {"peer": "linear", "rank": 2}}}, "linear has no rank"),
        ({"methods": {"a": {"peer": "lora", "ranks": [0]}}}, "ranks is a whole number from 1 on, not 0"),
        ({"methods": {"a": {"peer": "lora", "options": {"layer": "x"}}}}, "has no 'layer': .*; did you mean 'layers'"),
        ({"methods": {"a": {"peer": "lora", "lr": [1e-3]}}}, "lr has 1 values, the plan 2"),
        ({"methods": {"a": {"peer": "glora", "options": {"budget": "many"}}}}, "methods: a: budget 'many'"),
        ({"methods": {"a": {"peer": "glora", "options": {"fitnes": "loss"}}}}, "did you mean 'fitness'"),
        ({"methods": LORA, "train": {"epochs": 0}}, "epochs must be at least 1"),
        ({"methods": LORA, "train": {"augment": "flop"}}, "methods: lora: augment must be none, .*did you mean 'flip'"),
        ({"methods": LORA, "train": {"epochs": "ten"}}, "methods: lora: .*not supported"),
        ({"train": {"lr": 1.0}}, "train has no 'lr'"),
        ({"seeds": [0, 0]}, "seeds is a list of different numbers"),
        ({"lr": 0}, "lr is a positive number"),
        ({"lr": {"values": [1e-3, 1e-3]}}, "a list of different ones"),
        ({"final": "val"}, "final is not 'val'"),
        ({"protocol": "vtb"}, "protocol is not 'vtb': .*; did you mean 'vtab'"),
        ({"protocol": "vtab"}, "give either data or protocol with root"),
        ({"protocol": "vtab", "data": None}, "root is needed: the folder of the data sets of protocol vtab"),
        ({"root": "data"}, "root is for a protocol"),
        ({"shots": [1]}, "shots is for a protocol"),
        ({"protocol": "vtab", "data": None, "root": "nowhere"}, "nowhere: no such folder"),
        ({"protocol": "vtab", "data": None, "root": "x", "tasks": "dtd"}, "tasks is a list of different names"),
        ({"alphas": 60.1}, "alphas is text in quotes"),
        ({"alphas": "0:1"}, "alphas '0:1': write first:last:step"),
        ({"threads": 0}, "threads is a whole number from 1 on"),
        ({"checkpoint": "nowhere.safetensors"}, "checkpoint nowhere.safetensors cannot be read"),
        (
            {"final": "train+val", "methods": {"a": {"peer": "glora", "options": {"finetune_epochs": 2}}}},
            "leave finetune_epochs and select: soup out",
        ),
    ],
)
def test_a_wrong_plan_is_refused_in_one_line(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(GloraError, match=message) as error:
        read(tmp_path, **changes)
    assert str(error.value).startswith(str(tmp_path / "plan.yaml"))
    assert "\n" not in str(error.value)


def test_a_plan_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        Plan.read(tmp_path / "none.yaml", tmp_path)
    with pytest.raises(ConfigError, match="is no YAML"):
        Plan.read(write(tmp_path, "a: ["), tmp_path)
    with pytest.raises(ConfigError, match="the plan is a mapping"):
        Plan.read(write(tmp_path, "- 1"), tmp_path)
