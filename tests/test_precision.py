"""Which numbers are computed with."""

from __future__ import annotations

import pytest
import torch

from glora.precision import autocast, native_precision

CPU = torch.device("cpu")
X = torch.full((2, 3), 1.001)


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_products_are_computed_in_the_precision(precision, dtype: torch.dtype) -> None:
    with autocast(CPU, precision):
        assert (X @ X.T).dtype == dtype
        assert torch.nn.functional.linear(X, X).dtype == dtype
    assert (X @ X.T).dtype == torch.float32
    assert not torch.is_autocast_enabled("cpu")


def test_the_product_is_that_of_rounded_numbers() -> None:
    with autocast(CPU, "bf16"):
        found = X @ X.T
    assert found.equal(X.bfloat16() @ X.bfloat16().T)
    assert not found.float().equal(X @ X.T)
    with autocast(CPU, "fp32"):
        assert (X @ X.T).equal(torch.full((2, 2), 0.0).addmm(X, X.T))


def test_fp32_switches_off_what_is_around_it() -> None:
    with torch.autocast("cpu", torch.bfloat16), autocast(CPU, "fp32"):
        assert (X @ X.T).dtype == torch.float32


class Card:
    """Stands for torch.cuda."""

    def __init__(self, there: bool, bf16: bool) -> None:
        self.there, self.bf16 = there, bf16

    def is_available(self) -> bool:
        return self.there

    def is_bf16_supported(self, including_emulation: bool = True) -> bool:
        return self.bf16 or including_emulation


@pytest.mark.parametrize(("bf16", "wanted"), [(True, "bf16"), (False, "fp32")])
def test_a_gpu_decides_where_there_is_one(monkeypatch: pytest.MonkeyPatch, bf16: bool, wanted: str) -> None:
    monkeypatch.setattr("torch.cuda", Card(True, bf16))
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_bf16": not bf16}, raising=False)
    assert native_precision() == wanted


@pytest.mark.parametrize(
    ("capabilities", "wanted"),
    [
        ({"avx512_bf16": True}, "bf16"),
        ({"avx2": True, "amx_bf16": True, "avx512_bf16": False}, "bf16"),
        ({"architecture": "aarch64", "bf16": True}, "bf16"),
        ({"avx2": True, "avx512_bf16": False, "amx_fp16": True}, "fp32"),
        ({}, "fp32"),
    ],
)
def test_a_cpu_decides_by_what_it_can(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, object], wanted: str
) -> None:
    monkeypatch.setattr("torch.cuda", Card(False, True))
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: capabilities, raising=False)
    assert native_precision() == wanted


def test_a_torch_that_cannot_tell_means_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda", Card(False, True))
    monkeypatch.delattr("torch.cpu.get_capabilities", raising=False)
    assert native_precision() == "fp32"


def test_this_machine_has_an_answer() -> None:
    assert native_precision() in ("fp32", "bf16")
