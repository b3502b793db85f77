"""Merging that is checked before anything is written."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from glora.data import TensorSamples
from glora.errors import MergeError
from glora.evaluate import predict_logits
from glora.model import GLoRAModel

__all__ = ["verified_merge"]

# Of the largest logit: far above float32 rounding through a deep network, far below what a wrong merge gives.
_TOLERANCE = 1e-3


def verified_merge(
    net: GLoRAModel, inputs: Tensor, alpha: float = 1.0, keep_hybrids: bool = False
) -> tuple[nn.Module, dict[str, Any]]:
    """Merge the active structure after comparing the plain model with the adapted one on a batch, in float32.

    Args:
        net: the adapted model.
        inputs: a batch of the model's inputs, (N, ...).
        alpha: as in :meth:`GLoRAModel.merge`; what is compared is the full merge, which other values interpolate to.
        keep_hybrids: as in :meth:`GLoRAModel.merge`.

    Returns:
        The merged model, and the figures of the comparison.

    Raises:
        MergeError: if the logits differ by more than rounding or are not finite, or a merged weight is not; if blocks
            have prompts or adapters and ``keep_hybrids`` is not set.
    """
    batch = TensorSamples(inputs.cpu(), torch.zeros(len(inputs), dtype=torch.long))
    plain = net.merge(keep_hybrids=keep_hybrids)
    adapted, merged = predict_logits(net, batch, len(inputs)), predict_logits(plain, batch, len(inputs))
    difference = float((adapted - merged).abs().max())
    if not difference <= _TOLERANCE * float(adapted.abs().max()):
        raise MergeError(
            f"the merged model's logits differ from the adapted model's by {difference:g}: nothing was written"
        )
    same = bool((adapted.argmax(1) == merged.argmax(1)).all())
    figures = {"max_difference": difference, "batch": len(inputs), "same_predictions": same}
    return (plain if alpha == 1.0 else net.merge(alpha=alpha)), figures
