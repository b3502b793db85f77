"""What README.md tells a user to type works: its Python runs, in a small form, and its commands are understood."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from glora.cli.arguments import build_parser, spell

README = Path(__file__).parents[1] / "README.md"
# What makes the blocks small enough for a test; each must occur, or the test is no longer of what README says.
SMALLER = {
    "epochs=20": "epochs=1",
    "budget=150_000)": "budget=150_000, generations=0, population=3, parents=2, mutants=0, crossovers=0)",
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    lines = [line for block in blocks("bash") for line in block.splitlines() if line.startswith("glora ")]
    table = re.findall(r"^\| (`glora .*?) \|", README.read_text(encoding="utf-8"), re.MULTILINE)
    found = lines + [command for cell in table for command in re.findall(r"`(glora [^`]+)`", cell)]
    return [command for command in found if len(command.split()) > 2]  # and not a command's bare name


def test_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = "\n".join(blocks("python"))
    for said, small in SMALLER.items():
        assert code.count(said) == 1, said
        code = code.replace(said, small)
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert {path.name for path in tmp_path.iterdir()} == {"adapter.safetensors", "lora.safetensors"}
    assert type(names["plain"]).__module__.startswith("timm.")


@pytest.mark.parametrize("command", commands())
def test_commands_are_understood(command: str) -> None:
    parsed = build_parser().parse_args(spell(shlex.split(command)[1:]))
    assert parsed.command in command


def test_there_are_commands() -> None:
    assert len(commands()) > 8
