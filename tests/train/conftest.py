from __future__ import annotations

import pytest


@pytest.fixture
def _every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint after every epoch, however short."""
    monkeypatch.setattr("glora.train.supernet._CHECKPOINT_SECONDS", 0.0)
