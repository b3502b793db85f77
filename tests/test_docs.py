"""What the pages name is there: flags, modules and what they hold, training options, files that are linked."""

from __future__ import annotations

import importlib
import inspect
import re
from dataclasses import fields
from pathlib import Path

import pytest

import glora
from glora.cli.commands import COMMANDS
from glora.cli.data_commands import DATA_COMMANDS
from glora.config import RunConfig
from glora.train import TrainSettings

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
# Flags of pip, ruff, torchrun and the benchmarks.
FOREIGN = {"quick", "no-deps", "check", "nproc-per-node", "only", "device", "seeds", "tasks", "alone"}


def flags() -> set[str]:
    found = {field.name for field in fields(RunConfig)} | {"config", "print_config", "help"}
    for command in (*COMMANDS.values(), *DATA_COMMANDS.values()):
        found |= set(inspect.signature(command).parameters)
    return found | {f"no_{name}" for name in found}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_flags_exist(page: Path) -> None:
    named = set(re.findall(r"(?<![\w-])--([a-z][a-z_-]*)", page.read_text("utf-8")))
    assert not {flag for flag in named - FOREIGN if flag.replace("-", "_") not in flags()}


def test_foreign_flags_are_named() -> None:
    text = "".join(page.read_text("utf-8") for page in PAGES)
    assert not {flag for flag in FOREIGN if f"--{flag}" not in text}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_names_exist(page: Path) -> None:
    """``glora.a.b`` is a module or what one holds."""
    for name in set(re.findall(r"\bglora(?:\.[A-Za-z_]\w*)+", page.read_text("utf-8"))):
        found, *rest = name.split(".")[1:]
        value = getattr(glora, found, None) or importlib.import_module(f"glora.{found}")
        for part in rest:
            assert hasattr(value, part) or importlib.import_module(f"{value.__name__}.{part}"), name
            value = getattr(value, part)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text("utf-8")):
        path, _, place = target.partition("#")
        file = page.parent / path if path else page
        assert file.is_file(), target
        headings = re.findall(r"^#+ (.*)$", file.read_text("utf-8") if place else "", re.MULTILINE)
        assert not place or place in {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}, target


def test_the_page_on_training_has_every_option_beyond_the_plain_recipe() -> None:
    named = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "training.md").read_text("utf-8"), re.MULTILINE))
    assert named <= {field.name for field in fields(TrainSettings)}
    assert {"paths", "path_warmup", "none_rate", "ema", "lr_scale", "consistency", "augment"} <= named
