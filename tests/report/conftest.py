from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from sample_bench import write_bench
from sample_run import write_sample


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run folder; not to be changed."""
    return write_sample(tmp_path_factory.mktemp("sample") / "pets")


@pytest.fixture
def folder(sample: Path, tmp_path: Path) -> Path:
    """A copy of the complete run folder, to be changed."""
    return Path(shutil.copytree(sample, tmp_path / "pets"))


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a bench; not to be changed."""
    return write_bench(tmp_path_factory.mktemp("sample") / "vtab")


@pytest.fixture
def bench_folder(bench: Path, tmp_path: Path) -> Path:
    """A copy of the folder of a bench, to be changed."""
    return Path(shutil.copytree(bench, tmp_path / "vtab"))
