"""All peers by name, and :func:`peer`, which makes one of a model."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import nn

from glora import presets
from glora.errors import ConfigError, near_miss
from glora.layers import AdaptedLayer
from glora.layers.block import ExtendedBlock, Parts
from glora.peers import blocks, unfrozen
from glora.peers.base import Peer
from glora.peers.blocks import BlockPeer
from glora.peers.fact import FactoredLinear, FactPeer, TensorTrain, Tucker
from glora.peers.points import PointPeer
from glora.peers.through_peft import PeftPeer
from glora.peers.unfrozen import UnfrozenPeer
from glora.space import BiasPolicy, SearchSpace
from glora.structure import Form, LayerStructure
from glora.targets import resolve_heads

__all__ = ["PEERS", "Method", "peer"]

_QKV = "*.qkv"
_QKV_AND_FC1 = ("*.qkv", "*.fc1")


@dataclass(frozen=True)
class Method:
    """A method to compare with (final).

    Attributes:
        description: what is trained, in a few words.
        reference: where the method is published.
        settings: the method's own settings with their defaults.
        mergeable: whether training leaves a plain model.
        models: which models it takes.
    """

    description: str
    reference: str
    settings: Mapping[str, Any]
    mergeable: bool
    models: str
    _build: Callable[..., Peer]


def peer(
    name: str,
    model: nn.Module,
    *,
    head: str | Sequence[str] | Literal[False] | None = None,
    num_classes: int | None = None,
    seed: int = 0,
    **settings: Any,
) -> Peer:
    """Make a peer of a pretrained model, in place: trained are the method's own parameters and the head.

    Args:
        name: a key of ``PEERS``.
        model: the pretrained model with its head.
        head: qualified name of the head, or names of its parts; None looks for it, False means none.
        num_classes: width of the head, to tell it from other layers in an unknown model.
        seed: of what the method draws at the start; the global generators are left as they are.
        **settings: in place of the method's defaults.

    Raises:
        ConfigError: for an unknown method or setting, or a setting out of range.
        TargetError: if the method does not support the model, or layers or the head are not found.
    """
    if name not in PEERS:
        near = difflib.get_close_matches(name, PEERS, n=3, cutoff=0.3) or list(PEERS)
        raise ConfigError(f"there is no method {name!r}: did you mean {', '.join(near)}?")
    method = PEERS[name]
    if unknown := sorted(set(settings) - set(method.settings)):
        known = ", ".join(method.settings) or "none"
        meant = near_miss(unknown[0], method.settings)
        raise ConfigError(f"{name} has no setting {unknown[0]!r}; its settings are: {known}{meant}")
    if any(isinstance(module, AdaptedLayer | ExtendedBlock | FactoredLinear) for module in model.modules()):
        raise ConfigError("this model has been adapted already: load the pretrained one again")
    try:
        # As they come back from a file, so that a training and a file of it know each other again.
        complete = json.loads(json.dumps({**method.settings, **settings}))
    except TypeError:
        raise ConfigError(f"settings of {name} are plain values: numbers, text, or lists of text") from None
    heads = resolve_heads(model, head, num_classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return method._build(name, complete, model, heads, seed)


def _unfrozen(select: unfrozen.Selection, whole: bool = False) -> Callable[..., Peer]:
    return lambda name, settings, model, heads, seed: UnfrozenPeer(name, settings, model, heads, select, whole)


def _point(
    space: Callable[..., SearchSpace],
    also: unfrozen.Selection = unfrozen.no_parameters,
    bias: BiasPolicy = "create",
) -> Callable[..., Peer]:
    def build(name: str, settings: dict[str, Any], model: nn.Module, heads: tuple[str, ...], seed: int) -> Peer:
        rank = [settings["rank"]] if "rank" in settings else []
        layers = settings.get("layers")
        return PointPeer(name, settings, model, heads, space(*rank), layers, also=also, seed=seed, bias=bias)

    return build


def _blocks(parts: Callable[..., list[Parts]]) -> Callable[..., Peer]:
    return lambda name, settings, model, heads, seed: BlockPeer(name, settings, model, heads, parts(model, **settings))


def _fact(kind: type[TensorTrain] | type[Tucker]) -> Callable[..., Peer]:
    return lambda name, settings, model, heads, seed: FactPeer(name, settings, model, heads, kind)


def _peft(config: str, arguments: Callable[[Mapping[str, Any]], dict[str, Any]]) -> Callable[..., Peer]:
    return lambda name, settings, model, heads, seed: PeftPeer(
        name, settings, model, heads, config, arguments(settings)
    )


def _fixed_glora(rank: int) -> SearchSpace:
    return SearchSpace.point(LayerStructure(A=Form.low_rank(rank), C=Form.VECTOR, D=Form.VECTOR))


def _lora_of_peft(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {"r": settings["rank"], "lora_alpha": settings["alpha"], "lora_dropout": settings["dropout"]}


def _glora_of_peft(settings: Mapping[str, Any]) -> dict[str, Any]:
    forms = {key: settings[key] for key in ("config_A_B", "config_C", "config_D_E")}
    return {"r": settings["rank"], **forms}


_ANY = "any"
_LINEAR = "any with linear layers"
_VIT = "timm's ViT, DeiT, DINOv2"

PEERS: Mapping[str, Method] = MappingProxyType(
    {
        "full": Method(
            "every parameter", "full fine-tuning", {}, True, _ANY, _unfrozen(unfrozen.all_parameters, whole=True)
        ),
        "linear": Method("the head alone", "linear probe", {}, True, _ANY, _unfrozen(unfrozen.no_parameters)),
        "bitfit": Method(
            "every bias: E on linear layers, the others where they are",
            "Ben Zaken et al., arXiv 2106.10199",
            {},
            True,
            _LINEAR,
            _point(presets.bitfit, unfrozen.biases, "keep"),
        ),
        "layernorm": Method(
            "weight and bias of every LayerNorm",
            "Basu et al., arXiv 2304.01917",
            {},
            True,
            "any with LayerNorm",
            _unfrozen(unfrozen.some_norms),
        ),
        "lora": Method(
            "B low-rank on qkv",
            "Hu et al., arXiv 2106.09685",
            {"rank": 8, "layers": _QKV},
            True,
            _LINEAR,
            _point(presets.lora),
        ),
        "ssf": Method(
            "A, D, E vectors on linear layers, and every LayerNorm",
            "Lian et al., arXiv 2210.08823",
            {"layers": None},
            True,
            _LINEAR,
            _point(presets.ssf, unfrozen.norms),
        ),
        "ia3": Method(
            "A and D vectors on qkv and fc1",
            "Liu et al., arXiv 2205.05638",
            {"layers": _QKV_AND_FC1},
            True,
            _LINEAR,
            _point(presets.ia3),
        ),
        "glora-fixed": Method(
            "A low-rank, C and D vectors on every linear layer",
            "Ni et al. (PACE), arXiv 2409.17137",
            {"rank": 8, "layers": None},
            True,
            _LINEAR,
            _point(_fixed_glora),
        ),
        "vpt-shallow": Method(
            "tokens before the first block",
            "Jia et al., arXiv 2203.12119",
            {"tokens": 100, "dropout": 0.0},
            False,
            _VIT,
            _blocks(blocks.prompts),
        ),
        "vpt-deep": Method(
            "tokens before every block",
            "Jia et al., arXiv 2203.12119",
            {"tokens": 50, "dropout": 0.0},
            False,
            _VIT,
            _blocks(blocks.deep_prompts),
        ),
        "adapter": Method(
            "GELU bottlenecks behind attention and MLP",
            "Houlsby et al., arXiv 1902.00751",
            {"hidden": 8, "places": "both", "dropout": 0.0},
            False,
            _VIT,
            _blocks(blocks.adapters),
        ),
        "adaptformer": Method(
            "ReLU bottlenecks parallel to the MLP",
            "Chen et al., arXiv 2205.13535",
            {"hidden": 8, "scale": 0.1, "dropout": 0.1},
            False,
            _VIT,
            _blocks(blocks.adaptformer),
        ),
        "repadapter": Method(
            "A multiplicative and C vector on qkv and fc1",
            "Luo et al., arXiv 2302.08106",
            {"rank": 8, "layers": _QKV_AND_FC1},
            True,
            _LINEAR,
            _point(presets.repadapter),
        ),
        "fact-tt": Method(
            "increments in tensor-train form, shared over layers",
            "Jie and Deng, arXiv 2212.03145",
            {"rank": 16, "scale": 1.0, "dropout": 0.1},
            True,
            _VIT,
            _fact(TensorTrain),
        ),
        "fact-tk": Method(
            "increments in Tucker form, shared over layers",
            "Jie and Deng, arXiv 2212.03145",
            {"rank": 32, "scale": 1.0, "dropout": 0.1},
            True,
            _VIT,
            _fact(Tucker),
        ),
        "peft-lora": Method(
            "PEFT's LoRA on qkv",
            "Hu et al., arXiv 2106.09685; PEFT",
            {"rank": 8, "alpha": 8, "dropout": 0.0, "layers": _QKV},
            True,
            _LINEAR,
            _peft("LoraConfig", _lora_of_peft),
        ),
        "peft-dora": Method(
            "PEFT's DoRA on qkv",
            "Liu et al., arXiv 2402.09353; PEFT",
            {"rank": 8, "alpha": 8, "dropout": 0.0, "layers": _QKV},
            True,
            _LINEAR,
            _peft("LoraConfig", lambda settings: {**_lora_of_peft(settings), "use_dora": True}),
        ),
        "peft-glora": Method(
            "PEFT's GLoRA on every linear layer",
            "Chavan et al., arXiv 2306.07967; PEFT",
            {"rank": 4, "config_A_B": "lora", "config_C": "lora", "config_D_E": "vector", "layers": None},
            True,
            _LINEAR,
            _peft("GloraConfig", _glora_of_peft),
        ),
    }
)
