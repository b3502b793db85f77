"""Which computations share a buffer: only those that run one after the other."""

from __future__ import annotations

import copy
import pickle
import threading
from types import SimpleNamespace

import pytest
import torch

from glora.layers import Scratch

LIKE = torch.zeros(3, 2)


def test_layers_of_one_shape_share_a_buffer_for_each_use_and_dtype() -> None:
    scratch = Scratch()
    first = scratch.get("w", LIKE, torch.float32)
    assert (first.shape, first.dtype, first.device) == ((3, 2), torch.float32, torch.device("cpu"))
    assert scratch.get("w", torch.ones(3, 2), torch.float32) is first
    others = [
        scratch.get("wide", LIKE, torch.float32),
        scratch.get("w", LIKE, torch.float64),
        scratch.get("w", torch.zeros(2, 3), torch.float32),
        scratch.get("w", LIKE.to("meta"), torch.float32),
        Scratch().get("w", LIKE, torch.float32),
        copy.deepcopy(scratch).get("w", LIKE, torch.float32),
        pickle.loads(pickle.dumps(scratch)).get("w", LIKE, torch.float32),
    ]
    assert len({id(buffer) for buffer in (first, *others)}) == 8
    assert others[3].is_meta


def test_each_thread_has_its_own() -> None:
    scratch, found = Scratch(), []
    for _ in range(2):
        thread = threading.Thread(target=lambda: found.append(scratch.get("w", LIKE, torch.float32)))
        thread.start()
        thread.join()
    assert len({id(buffer) for buffer in (*found, scratch.get("w", LIKE, torch.float32))}) == 3


def test_each_stream_of_a_device_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    # The meta device stands for one with streams, such as cuda, whose module tells the current one.
    asked, now = [], SimpleNamespace(stream_id=7)

    def current_stream(device: torch.device) -> SimpleNamespace:
        asked.append(device)
        return now

    monkeypatch.setattr(torch, "meta", SimpleNamespace(current_stream=current_stream), raising=False)
    scratch, like = Scratch(), LIKE.to("meta")
    first = scratch.get("w", like, torch.float32)
    now.stream_id = 8
    second = scratch.get("w", like, torch.float32)
    assert second is not first
    assert scratch.get("w", like, torch.float32) is second
    now.stream_id = 7
    assert scratch.get("w", like, torch.float32) is first
    assert asked == [torch.device("meta")] * 4


def test_the_current_stream_is_found_where_torch_tells_it() -> None:
    assert callable(torch.cuda.current_stream)
    assert "stream_id" in dir(torch.cuda.Stream)
