"""The settings of ``glora demo``: the whole road on what needs no download, in about ten minutes on two CPU cores."""

from __future__ import annotations

from glora.config import RunConfig

__all__ = ["demo_config"]


def demo_config(out: str) -> RunConfig:
    """Settings of a run on scikit-learn's digits with the saliency-tuned DINOv2-small at 56 pixels."""
    return RunConfig(
        data="digits",
        model="offline/dinov2-small",
        out=out,
        size=56,
        budget="150k",
        epochs=20,
        finetune_epochs=5,
        batch_size=32,
        generations=5,
        population=20,
    )
