"""Which file may import which, how long files are, and what the package shows: read from the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import glora

PACKAGE = Path(glora.__file__).parent
LAYERS = {
    "errors": 0,
    "shapes": 0,
    "structure": 0,
    "space": 0,
    "presets": 0,
    "fields": 0,
    "files": 0,
    "soup": 0,
    "functional": 1,
    "support": 1,
    "gains": 1,
    "precision": 1,
    "layers": 1,
    "bypass": 2,
    "folds": 2,
    "targets": 2,
    "trainable": 2,
    "model": 2,
    "summary": 2,
    "checkpoint": 2,
    "blend": 2,
    "train": 3,
    "equivalence": 3,
    "evaluate": 3,
    "evidence": 3,
    "crossval": 3,
    "metrics": 3,
    "machine": 3,
    "data": 3,
    "protocols": 3,
    "results": 3,
    "backbones": 3,
    "strategies": 3,
}
TOP = 4
# All others: find, config, run, comparison, inference, verify, peers, bench, report and cli.
# Layers below 3, and the strategies, need nothing but these beside the standard library.
THIRD_PARTY = {0: set(), 1: {"torch"}, 2: {"torch", "safetensors"}, "strategies": {"numpy"}}

FILES = sorted(path for path in PACKAGE.rglob("*.py"))
IDS = [str(path.relative_to(PACKAGE)) for path in FILES]


def unit(path: Path) -> str:
    """The first name below the package: ``layers`` for layers/base.py, ``model`` for model.py."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def level(name: str) -> int:
    return LAYERS.get(name, TOP)


def imports(path: Path) -> list[tuple[str, bool]]:
    """Modules that a file imports, and whether it does so at its top and when running."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    checking = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node not in checking) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports in full"
            names = [f"glora.{alias.name}" for alias in node.names] if node.module == "glora" else [str(node.module)]
            found += [(name, node not in checking) for name in names]
    return found


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_a_file_imports_from_its_own_layer_or_below(path: Path) -> None:
    own = level(unit(path))
    if path == PACKAGE / "__init__.py":
        return
    for module, running in imports(path):
        if module.startswith("glora.") and running:
            other = module.split(".")[1]
            if (path.name, other) == ("model.py", "summary"):
                continue
            assert level(other) <= own, f"{path.name} (layer {own}) imports {module} (layer {level(other)})"
            if own == 3 and unit(path) == "strategies":
                assert level(other) == 0 or other == "strategies", f"strategies/{path.name} imports {module}"


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_lower_layers_need_little_beside_the_standard_library(path: Path) -> None:
    own = "strategies" if unit(path) == "strategies" else level(unit(path))
    if own not in THIRD_PARTY or path == PACKAGE / "__init__.py":
        return
    for module, running in imports(path):
        root = module.split(".")[0]
        if running and root not in sys.stdlib_module_names and root != "glora":
            assert root in THIRD_PARTY[own], f"{path.name} (layer {own}) imports {root}"


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_no_file_is_longer_than_400_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def test_no_test_file_is_longer_either() -> None:
    lengths = {path.name: len(path.read_text("utf-8").splitlines()) for path in Path(__file__).parent.rglob("*.py")}
    assert not {name: length for name, length in lengths.items() if length > 400}


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_every_file_says_what_it_is_and_what_it_shows(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), f"{path.name} has no docstring"
    if path.name == "__main__.py":
        return
    names = [ast.unparse(t) for node in tree.body if isinstance(node, ast.Assign) for t in node.targets]
    defined = any(isinstance(node, ast.FunctionDef | ast.ClassDef | ast.ImportFrom) for node in tree.body)
    assert "__all__" in names or not defined, f"{path.name} has no __all__"


def test_nothing_but_bench_and_command_line_knows_of_the_peers() -> None:
    users = {unit(path) for path in FILES for module, _ in imports(path) if module.startswith("glora.peers")}
    assert users <= {"__init__", "peers", "bench", "cli"}


def test_the_root_is_small_and_complete() -> None:
    assert len(glora.__all__) <= 20
    assert sorted(glora.__all__, key=str.lower) == sorted(set(glora.__all__), key=str.lower)
    for name in glora.__all__:
        assert getattr(glora, name) is not None


def run(code: str, environment: dict[str, str]) -> str:
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_importing_has_no_side_effect(environment: dict[str, str], tmp_path: Path) -> None:
    code = f"""
import logging, os, random, sys, threading, warnings
import numpy, torch
import safetensors.torch
os.chdir({str(tmp_path)!r})
def look():
    return (
        dict(os.environ), torch.get_rng_state().tolist(), random.getstate(), len(warnings.filters),
        torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled(), sys.excepthook,
        logging.getLogger().handlers[:], threading.active_count(), os.listdir('.'),
        numpy.random.get_state()[1].tolist(),
    )
before = look()
import glora
assert look() == before
"""
    assert run(code, environment) == ""


@pytest.mark.parametrize("module", ["errors", "structure", "space", "presets", "strategies"])
def test_values_and_search_can_be_read_without_torch(module: str, environment: dict[str, str]) -> None:
    if not (PACKAGE / f"{module}.py").exists() and not (PACKAGE / module).exists():
        pytest.skip(f"glora.{module} is not there")
    # The root imports torch, so a bare package stands in for it.
    code = f"""
import sys, types, importlib
root = types.ModuleType('glora'); root.__path__ = [{str(PACKAGE)!r}]; sys.modules['glora'] = root
importlib.import_module('glora.{module}')
assert 'torch' not in sys.modules, 'torch was imported'
"""
    run(code, environment)
