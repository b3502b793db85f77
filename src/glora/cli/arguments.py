"""The parser: flags, YAML files and help made from the signatures and docstrings of the commands."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from importlib.metadata import version
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

from glora.cli.commands import COMMANDS
from glora.cli.data_commands import DATA_COMMANDS, GROUP
from glora.config import RunConfig
from glora.errors import near_miss

__all__ = ["build_parser", "spell"]

_EPILOG = "Flags may be written with - or _ between words; one that is true or false needs no value."


_POSITIONAL = frozenset({"source", "run", "images", "name", "dir", "plan", "results", "table", "shots", "corruption"})
# Arguments that are any number of words.
_SEVERAL = {"images": "image files, or folders of them", "results": "files results.jsonl, or folders of a bench"}


class _Parser(ArgumentParser):
    """A parser whose errors are one line, in the words of the command line."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        prog, line = self.prog, " ".join(message.split())
        if found := re.fullmatch(r"the following arguments are required: ([\w.]+)\.(\w+)(,.*)?", line):
            prog = f"glora {found[1].replace('.', ' ')}"
            line = f"{found[2].upper() if found[2] in _POSITIONAL else f'--{found[2]}'} is needed"
        line = re.sub(r'Parser key "(?:\w+\.)*(\w+)": ', r"--\1: ", line)
        line = re.sub(r"Expected a <class '(\w+)'>\. Got value: (.*)", r"expected a value of type \1, not \2", line)
        line = re.sub(r"Expected a typing\.Literal\[(.*?)\]\. Got value: (.*)", r"expected one of \1, not \2", line)
        if found := re.fullmatch(r"Subcommand '(\w+)' does not accept option '([\w.]+)'", line):
            prog, line = f"glora {found[1]}", f"there is no setting {found[2]!r}"
        print(f"{prog}: {line}{self._meant(line)} (see {prog} --help)", file=sys.stderr)
        sys.exit(2)

    def _meant(self, line: str) -> str:
        """What may have been meant by the setting, flag or word that ``line`` does not know."""
        if found := re.match(r"there is no setting '(.*)'", line):
            return near_miss(found[1], RunConfig.__dataclass_fields__)
        if found := re.match(r"unrecognized arguments: --([\w-]+)", line):
            # Compared without the two dashes, which would make any short flags alike.
            flags = {flag[2:] for action in self._actions for flag in action.option_strings if flag.startswith("--")}
            flags |= {f"no-{name}" for name in flags & _switches()}
            near = near_miss(found[1].replace("_", "-"), sorted(flag.replace("_", "-") for flag in flags))
            return near.replace("'", "'--", 1)
        if found := re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", line):
            return near_miss(found[1], re.findall(r"[\w-]+", found[2]))
        if found := re.search(r"expected one of (.*), not (.*)", line):
            return near_miss(found[2], re.findall(r"'(.*?)'", found[1]))
        return ""


def build_parser() -> ArgumentParser:
    """The parser of all commands."""
    parser = _Parser(prog="glora", description=__doc__, version=version("glora"))
    parser.description = "Adapt a frozen pretrained network to a small labelled data set by GLoRA."
    found = parser.add_subcommands(dest="command", required=True, metavar="COMMAND")
    _add_commands(found, "glora", COMMANDS)
    data = _Parser(description=GROUP)
    found.add_subcommand("data", data, help=GROUP)
    _add_commands(data.add_subcommands(dest="action", required=True, metavar="COMMAND"), "glora data", DATA_COMMANDS)
    data.prog = "glora data"
    return parser


def _add_commands(found: Any, prog: str, commands: Mapping[str, Callable[..., int | None]]) -> None:
    for name, command in commands.items():
        text = inspect.getdoc(command) or ""
        own = _Parser(description=text.split("\n\nArgs:")[0], epilog=_EPILOG)
        _add(own, command)
        found.add_subcommand(name, own, help=text.split("\n")[0])
        own.prog = f"{prog} {name}"  # which adding it has changed


def _add(parser: ArgumentParser, command: Callable[..., Any]) -> None:
    parameters = set(inspect.signature(command).parameters)
    if "config" in parameters:
        parser.add_argument("--config", action="config", help="YAML file of settings; flags win over it")
        parser.add_class_arguments(RunConfig, as_group=False)
    # What the parser makes itself, what the program adds, and what takes any number of words.
    skip: set[str | int] = {"config", "line", *_SEVERAL}
    parser.add_function_arguments(command, as_group=False, as_positional=True, skip=skip & parameters)
    for name in sorted(_SEVERAL.keys() & parameters):
        parser.add_argument(name, nargs="+", type=str, help=_SEVERAL[name])


def spell(arguments: Sequence[str]) -> list[str]:
    """Write flags as the parser wants them: ``--skip-bad`` as ``--skip_bad=true``, ``--no-recompute`` as its opposite.

    What stands behind ``--`` is left as it is.
    """
    switches = _switches()
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
    return _files_first(spelt)


def _switches() -> set[str]:
    """The names of all settings that are true or false."""
    switches = {field.name for field in fields(RunConfig) if field.type == "bool"}
    for command in (*COMMANDS.values(), *DATA_COMMANDS.values()):
        switches |= {p.name for p in inspect.signature(command).parameters.values() if p.annotation in (bool, "bool")}
    return switches


def _files_first(arguments: list[str]) -> list[str]:
    """Move ``--config FILE`` before the other flags, which win over it wherever they stand."""
    rest: list[str] = []
    files: list[str] = []
    left = iter(arguments)
    for argument in left:
        if argument == "--config":
            files += [argument, *([following] if (following := next(left, None)) is not None else [])]
        else:
            (files if argument.startswith("--config=") else rest).append(argument)
    return [*rest[:1], *files, *rest[1:]]
