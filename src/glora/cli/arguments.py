"""The parser: flags, YAML files and help made from the signatures and docstrings of the commands."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from importlib.metadata import version
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

from glora.cli.commands import COMMANDS
from glora.config import RunConfig

__all__ = ["build_parser", "spell"]

_EPILOG = "Flags may be written with - or _ between words; one that is true or false needs no value."


class _Parser(ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        print(f"{self.prog}: {' '.join(message.split())} (see {self.prog} --help)", file=sys.stderr)
        sys.exit(2)


def build_parser() -> ArgumentParser:
    """The parser of all commands."""
    parser = _Parser(prog="glora", description=__doc__, version=f"glora {version('glora')}")
    parser.description = "Adapt a frozen pretrained network to a small labelled data set by GLoRA."
    found = parser.add_subcommands(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        text = inspect.getdoc(command) or ""
        own = _Parser(prog=f"glora {name}", description=text.split("\n\nArgs:")[0], epilog=_EPILOG)
        _add(own, command)
        found.add_subcommand(name, own, help=text.split("\n")[0])
    return parser


def _add(parser: ArgumentParser, command: Callable[..., Any]) -> None:
    parameters = set(inspect.signature(command).parameters)
    if "config" in parameters:
        parser.add_argument("--config", action="config", help="YAML file of settings; flags win over it")
        parser.add_class_arguments(RunConfig, as_group=False)
    # What the parser makes itself, what the program adds, and what takes any number of words.
    skip: set[str | int] = {"config", "line", "images"}
    parser.add_function_arguments(command, as_group=False, as_positional=True, skip=skip & parameters)
    if "images" in parameters:
        parser.add_argument("images", nargs="+", type=str, help="image files, or folders of them")


def spell(arguments: Sequence[str]) -> list[str]:
    """Write flags as the parser wants them: ``--skip-bad`` as ``--skip_bad=true``, ``--no-baselines`` as its opposite.

    What stands behind ``--`` is left as it is.
    """
    switches = {field.name for field in fields(RunConfig) if field.type == "bool"}
    for command in COMMANDS.values():
        switches |= {p.name for p in inspect.signature(command).parameters.values() if p.annotation in (bool, "bool")}
    spelt: list[str] = []
    for i, argument in enumerate(arguments):
        if argument == "--":
            return [*spelt, *arguments[i:]]
        found = re.fullmatch(r"--([a-z][a-z_-]*)(=.*)?", argument, re.DOTALL)
        if not found:
            spelt.append(argument)
            continue
        name, value = found[1].replace("-", "_"), found[2] or ""
        following = arguments[i + 1].lower() if i + 1 < len(arguments) else ""
        if name in switches and not value and following not in ("true", "false"):
            value = "=true"
        elif name.startswith("no_") and name[3:] in switches and not value:
            name, value = name[3:], "=false"
        spelt.append(f"--{name}{value}")
    return spelt
