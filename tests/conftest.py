from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

from helpers import one_thread

settings.register_profile("fixed", deadline=None, derandomize=True, max_examples=30, database=None)
settings.load_profile("fixed")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def single_threaded() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture
def weight_route(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glora.layers.linear._WEIGHT_ROUTE_TOKENS", 0)


@pytest.fixture(params=["weight", "side"])
def route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of computing an adapted layer, whatever the number of tokens."""
    monkeypatch.setattr("glora.layers.linear._WEIGHT_ROUTE_TOKENS", 0 if request.param == "weight" else 10**9)
    return request.param


@pytest.fixture
def _hub_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def _no_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise AssertionError("evaluated")

    monkeypatch.setattr("glora.find.Evaluator.score", forbidden)


@pytest.fixture
def environment() -> dict[str, str]:
    """For new processes: this one's, on one thread."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One Ray for all tests here."""
    ray = pytest.importorskip("ray", reason="needs Ray: pip install 'glora[ray]'")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    yield
    ray.shutdown()
