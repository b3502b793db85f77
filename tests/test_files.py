"""Files appear whole or not at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from glora.errors import ConfigError
from glora.files import locked, replacing, write_json, write_text


def test_text_and_json_are_written(tmp_path: Path) -> None:
    write_text(tmp_path / "new" / "a.txt", "ä\n")
    assert (tmp_path / "new" / "a.txt").read_bytes() == "ä\n".encode()
    write_json(tmp_path / "a.json", {"ü": [1, 2]})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert text.endswith("}\n")
    assert "ü" in text
    assert json.loads(text) == {"ü": [1, 2]}


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def write_half() -> None:
        with replacing(path) as temporary:
            temporary.write_text("ne")
            raise RuntimeError("midway")

    with pytest.raises(RuntimeError, match="midway"):
        write_half()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_what_cannot_be_written_as_json_leaves_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(tmp_path / "a.json", {"x": object()})
    assert os.listdir(tmp_path) == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "1\n"


def test_a_block_that_writes_nothing_changes_nothing(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(FileNotFoundError, match=r"a\.txt"), replacing(tmp_path / "a.txt"):
        pass
    assert (tmp_path / "a.txt").read_text() == "old"


def test_a_process_killed_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    code = (
        "import os, signal, sys; from pathlib import Path; from glora.files import replacing\n"
        "with replacing(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == -9
    assert path.read_text() == "old"
    write_text(path, "new")
    assert path.read_text() == "new"


def test_a_folder_is_for_one_at_a_time(tmp_path: Path) -> None:
    with (
        locked(tmp_path),
        pytest.raises(ConfigError, match=r"another glora is at work in this folder: wait .*, or give another folder"),
        locked(tmp_path),
    ):
        pytest.fail("two are in")
    with locked(tmp_path):
        assert os.listdir(tmp_path) == [".lock"]


def test_a_locked_folder_is_made_and_goes_again_if_nothing_was_put_into_it(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    with locked(folder):
        assert folder.is_dir()
    assert not os.listdir(tmp_path)
    with locked(folder):
        write_text(folder / "c.txt", "kept")
    assert sorted(os.listdir(folder)) == [".lock", "c.txt"]


def test_a_folder_that_was_there_stays(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with locked(tmp_path / "a"):
        pass
    assert (tmp_path / "a").is_dir()


def test_what_cannot_be_a_folder_is_not_locked(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a file")
    with pytest.raises(ConfigError, match=r"a is a file: give another folder$"), locked(tmp_path / "a"):
        pytest.fail("in a file")
    with pytest.raises(ConfigError, match=r"b cannot be written to \(.*\): give another"), locked(tmp_path / "a" / "b"):
        pytest.fail("below a file")


def test_a_killed_process_leaves_a_folder_open_and_its_half_written_file_is_overwritten(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from glora.files import locked, replacing\n"
        "folder = Path(sys.argv[1])\n"
        "with locked(folder), replacing(folder / 'a.txt') as temporary:\n"
        "    temporary.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == -9
    with locked(tmp_path):
        write_text(tmp_path / "a.txt", "whole")
    assert sorted(os.listdir(tmp_path)) == [".lock", "a.txt"]
