"""The precisions that training and evaluation compute in."""

from __future__ import annotations

from typing import Any, Literal

import torch

__all__ = ["Precision", "autocast", "autocast_dtype", "native_precision"]

Precision = Literal["fp32", "bf16", "fp16"]

_CPU_BF16 = ("avx512_bf16", "amx_bf16", "bf16")


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The autocast context of a precision; does nothing for fp32."""
    dtype = autocast_dtype(precision)
    return torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None)


def autocast_dtype(precision: Precision) -> torch.dtype | None:
    """What a precision casts to for products; None for fp32, which casts nothing."""
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def native_precision() -> Precision:
    """Bf16 where the device that would be used computes it in hardware, as far as torch can tell; else fp32."""
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # not in older releases
    return "bf16" if any(capabilities.get(name) for name in _CPU_BF16) else "fp32"
