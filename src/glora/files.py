"""Writing files whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from glora.errors import ConfigError

__all__ = ["appearing", "locked", "replacing", "write_json", "write_text"]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary file beside ``path`` to write, then sync it and move it into place.

    If the block raises, nothing changes at ``path`` and the temporary file goes.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Always of the same name, so that what a kill leaves behind is overwritten by the next try.
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        temporary.unlink()
        yield temporary
        # As the umask wants it, also where the writer has its own idea (safetensors: for the owner only).
        temporary.chmod(mode)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes that ask for the same out of a folder, for a block, however this one ends.

    A hidden file ``.lock`` stays there. The folder is made; if it was not there and nothing is put into it, it goes
    again. Does not keep anyone out on systems without ``fcntl``.

    Raises:
        ConfigError: if another one is in there, or it cannot be a folder.
    """
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    except OSError as error:
        what = "is a file" if folder.is_file() else f"cannot be written to ({error.strerror})"
        raise ConfigError(f"{folder} {what}: give another folder") from None
    with file:
        _lock(file, folder)
        try:
            yield
        finally:
            if new and os.listdir(folder) == [".lock"]:
                (folder / ".lock").unlink()
                for path in new:
                    path.rmdir()


@contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """Give a temporary folder beside ``folder`` to fill, then move it into place; it goes if the block raises.

    Raises:
        ConfigError: if another process is making the same folder.
    """
    # Always of the same name, so that the next try finds and overwrites what a kill leaves behind.
    temporary = folder.with_name(f".{folder.name}.tmp")
    temporary.mkdir(parents=True, exist_ok=True)
    with locked(temporary):
        try:
            _clear(temporary)
            yield temporary
            (temporary / ".lock").unlink(missing_ok=True)
            if hasattr(os, "sync"):
                os.sync()
            if folder.is_dir():
                folder.rmdir()
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _clear(folder: Path) -> None:
    """Remove what a killed process has left, but for the lock that is held."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != ".lock":
            path.unlink()


def _lock(file: IO[str], folder: Path) -> None:
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise ConfigError(
            f"{folder}: another glora is at work in this folder: wait for it, or give another folder"
        ) from None


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically, indented and ending in a newline."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
