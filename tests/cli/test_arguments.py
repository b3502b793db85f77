"""How flags are spelt, YAML files and flags together, and what the help tells."""

from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from glora.cli import commands
from glora.cli.arguments import build_parser, spell
from glora.config import RunConfig
from small_run import call

BASE = ["run", "--data", "pictures", "--model", "test_vit"]


def parsed(*arguments: str) -> dict[str, Any]:
    found = build_parser().parse_args(spell(arguments))
    return dict(found[found.command].as_dict())


# Spelling


@pytest.mark.parametrize(
    ("given", "spelt"),
    [
        (["--skip-bad"], ["--skip_bad=true"]),
        (["--skip_bad"], ["--skip_bad=true"]),
        (["--no-skip-bad"], ["--skip_bad=false"]),
        (["--no-recompute"], ["--recompute=false"]),
        (["--no_recompute"], ["--recompute=false"]),
        (["--recompute"], ["--recompute=true"]),
        (["--recompute", "false"], ["--recompute", "false"]),
        (["--recompute", "True"], ["--recompute", "True"]),
        (["--recompute=false"], ["--recompute=false"]),
        (["--skip-bad=false"], ["--skip_bad=false"]),
        (["--json"], ["--json=true"]),
        (["--json", "--skip-bad", "x.png"], ["--json=true", "--skip_bad=true", "x.png"]),
        (["--batch-size", "4"], ["--batch_size", "4"]),
        (["--batch-size=4"], ["--batch_size=4"]),
        (["--out=a-b_c=d"], ["--out=a-b_c=d"]),
        (["-h"], ["-h"]),
        (["some-file", "another_file"], ["some-file", "another_file"]),
        (["--print-config"], ["--print_config"]),
        (["--json", "--", "--skip-bad", "--a-b"], ["--json=true", "--", "--skip-bad", "--a-b"]),
        ([], []),
    ],
)
def test_flags_in_either_spelling_and_switches_without_a_value(given: list[str], spelt: list[str]) -> None:
    assert spell(given) == spelt


@pytest.mark.parametrize(
    ("given", "skip_bad", "recompute"),
    [
        ([], False, False),
        (["--skip-bad"], True, False),
        (["--recompute"], False, True),
        (["--no-recompute"], False, False),
        (["--no-recompute", "--skip-bad"], True, False),
        (["--skip-bad", "false", "--recompute", "false"], False, False),
        (["--skip_bad=true", "--recompute=true"], True, True),
    ],
)
def test_switches_reach_the_settings(given: list[str], skip_bad: bool, recompute: bool) -> None:
    found = parsed(*BASE, *given)
    assert (found["skip_bad"], found["recompute"]) == (skip_bad, recompute)


def test_every_setting_has_a_flag_with_the_default_of_the_configuration() -> None:
    found = parsed(*BASE)
    for field in fields(RunConfig):
        wanted = {"data": "pictures", "model": "test_vit"}.get(field.name, field.default)
        assert found[field.name] == wanted, field.name


@pytest.mark.parametrize(
    ("flag", "name", "value"),
    [
        ("--budget=300k", "budget", "300k"),
        ("--budget=300000", "budget", 300_000),
        ("--lr=1e-4", "lr", 1e-4),
        ("--size=64", "size", 64),
        ("--layers=blocks.*.attn.*", "layers", "blocks.*.attn.*"),
        ("--space=lora-8", "space", "lora-8"),
        ("--space={A: vector, B: [rank-2, none]}", "space", {"A": "vector", "B": ["rank-2", "none"]}),
        ("--gains=paper", "gains", "paper"),
        ("--augment=none", "augment", "none"),
        ("--augment=rand-m5-n1", "augment", "rand-m5-n1"),
        ("--model=hf:some/folder", "model", "hf:some/folder"),
    ],
)
def test_values_of_flags(flag: str, name: str, value: Any) -> None:
    assert parsed(*BASE, flag)[name] == value
    assert RunConfig(**{field.name: parsed(*BASE, flag)[field.name] for field in fields(RunConfig)})


def test_images_may_be_named_like_anything() -> None:
    found = parsed("predict", "runs/pets", "a.png", "b c.png", "--top", "2", "--skip-bad")
    assert found["images"] == ["a.png", "b c.png"]
    assert (found["source"], found["top"], found["skip_bad"]) == ("runs/pets", 2, True)


# YAML


@pytest.mark.parametrize("flag_first", [False, True])
def test_a_yaml_file_gives_settings_and_flags_win_wherever_they_stand(flag_first: bool, tmp_path: Path) -> None:
    text = {"data": "birds", "model": "test_vit", "budget": "12k", "epochs": 7, "space": {"A": ["vector", "none"]}}
    file = tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump(text))
    given = ["--config", str(file)]
    found = parsed("run", *(["--epochs=9", *given] if flag_first else [*given, "--epochs=9"]))
    assert {key: found[key] for key in text} == {**text, "epochs": 9}
    assert found["batch_size"] == 64


@pytest.mark.parametrize("command", ["run", "train"])
def test_the_printed_configuration_can_be_fed_back(command: str, tmp_path: Path) -> None:
    given = ["--data=birds", "--model=test_vit", "--budget=12k", "--no-recompute", "--lr=0.01", "--space={A: vector}"]
    printed = call(command, *given, "--print_config")
    assert (printed.code, printed.err) == (0, "")
    assert yaml.safe_load(printed.out)["epochs"] == 100
    (tmp_path / "printed.yaml").write_text(printed.out)
    again = call(command, "--config", tmp_path / "printed.yaml", "--print-config")
    assert again == printed
    found, wanted = parsed(command, f"--config={tmp_path / 'printed.yaml'}"), parsed(command, *given)
    assert {key: value for key, value in found.items() if key != "config"} == {
        key: value for key, value in wanted.items() if key != "config"
    }


# Help


def test_the_help_names_all_commands_and_what_each_does() -> None:
    done = call("--help")
    assert (done.code, done.err) == (0, "")
    text = " ".join(done.out.split())
    for name, command in commands.COMMANDS.items():
        assert name in text
        assert " ".join((inspect.getdoc(command) or "").split("\n")[0].split()) in text


def test_without_a_command_the_help_is_shown() -> None:
    assert call() == call("--help")


@pytest.mark.parametrize("name", list(commands.COMMANDS))
def test_every_flag_of_every_command_is_explained(name: str) -> None:
    done = call(name, "--help")
    assert (done.code, done.err) == (0, "")
    text = " ".join(done.out.split())
    explained = inspect.getdoc(commands.COMMANDS[name]) or ""
    if "config" in inspect.signature(commands.COMMANDS[name]).parameters:
        explained += "\n" + (inspect.getdoc(RunConfig) or "")
    flags = 0
    for line in explained.splitlines():
        flag, colon, words = line.strip().partition(": ")
        if colon and flag.isidentifier() and flag not in ("config", "line", "ConfigError", "StructureError"):
            assert words.split(",")[0].split(";")[0].rstrip(".") in text, flag
            flags += 1
    assert flags >= 2
    assert "Flags may be written with - or _ between words" in text


@pytest.mark.parametrize("name", ["run", "predict"])
def test_the_usage_line_can_be_typed_as_it_stands(name: str) -> None:
    assert call(name, "--help").out.startswith(f"usage: glora {name} ")


def test_the_version() -> None:
    from importlib.metadata import version

    done = call("--version")
    assert (done.code, done.out.strip()) == (0, f"glora {version('glora')}")
