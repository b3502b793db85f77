"""Running one command: its exit code, and one clear line when it cannot be done."""

from __future__ import annotations

import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from glora.errors import ConfigError, GloraError

__all__ = ["main"]

_RESUMED = ("run", "train", "search", "demo", "bench")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command of the command line.

    Args:
        arguments: without the program's name; those of this process if None.

    Returns:
        0: done; 2: wrong use or input, told in one line; 130: interrupted; 1: our fault, or cells of a bench failed.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(given)
    except GloraError as error:
        print(f"glora: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        goes_on = "; the same command goes on from here" if given[:1] and given[0] in _RESUMED else ""
        print(f"\nglora: stopped{goes_on}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception:
        traceback.print_exc()
        print("glora: this is our fault; please report the lines above", file=sys.stderr)
        return 1


def _run(given: list[str]) -> int:
    from glora.cli.arguments import build_parser, spell  # here, so that Ctrl-C during the slow imports is caught
    from glora.cli.commands import COMMANDS
    from glora.cli.data_commands import DATA_COMMANDS
    from glora.config import RunConfig

    bare = given in ([], ["data"])
    parsed = build_parser().parse_args(spell([*given, "--help"] if bare else given))
    name = str(parsed.command)
    values: dict[str, Any] = dict(parsed[name].as_dict())
    if name != "train" and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(f"glora {name} works in one process: launch glora train in several, then glora search RUN")
    if name == "data":
        action = values["action"]
        DATA_COMMANDS[action](**values[action])
        return 0
    if "config" in values:
        settings = {field: values.pop(field) for field in RunConfig.__dataclass_fields__}
        values |= {"config": RunConfig(**settings), "line": shlex.join(["glora", *given])}
    return COMMANDS[name](**values) or 0
