"""Models of timm: names, hub weights that cannot be had, sizes, classifiers, stochastic depth."""

import re
import socket
import time
import urllib.request

import pytest
import timm
import torch
from huggingface_hub import constants
from random_vits import VIT, same_backbone
from safetensors.torch import save_file

from glora.backbones import load_backbone
from glora.errors import BackboneError

pytestmark = pytest.mark.usefixtures("_hub_offline")


# names


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vit_tiny_patch17_224", "unknown backbone 'vit_tiny_patch17_224': did you mean vit_tiny_patch16_224"),
        ("dinov2-small", "did you mean offline/dinov2-small"),
        ("qqqqqqqqqqqqqqqq", "unknown backbone 'qqqqqqqqqqqqqqqq': timm.list_models"),
        ("timm/vit_tiny", "say hf-hub:timm/vit_tiny (timm) or hf:timm/vit_tiny"),
        (f"{VIT}.augreg", f"unknown weights 'augreg' of timm's {VIT}: it has {VIT}.augreg_in21k"),
    ],
)
def test_unknown_names_come_with_near_misses(name, message):
    with pytest.raises(BackboneError, match=re.escape(message)):
        load_backbone(name, num_classes=2)


def test_weights_that_timm_does_not_have():
    with pytest.raises(BackboneError, match="timm has no pretrained weights for botnet50ts_256: give a file"):
        load_backbone("botnet50ts_256", num_classes=2)


# the hub


@pytest.mark.parametrize(
    ("name", "repository"),
    [(f"{VIT}.augreg_in21k", f"timm/{VIT}.augreg_in21k"), (VIT, f"timm/{VIT}"), ("hf-hub:some/where", "some/where")],
)
def test_offline_hub_is_one_line_with_the_remedies(name, repository):
    with pytest.raises(BackboneError, match=f"tried the hub repository {repository}") as caught:
        load_backbone(name, num_classes=2, size=32)
    message = str(caught.value)
    assert "\n" not in message
    assert "HF_HUB_OFFLINE is set, and not in the cache" in message
    assert message.endswith("give a local file with --checkpoint FILE, or use offline/dinov2-small")


def test_no_connection_fails_in_seconds(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(-2, "Name or service not known")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(urllib.request, "getproxies", dict)
    monkeypatch.setattr(socket, "create_connection", refuse)
    start = time.perf_counter()
    with pytest.raises(BackboneError, match=r"no connection to https?://\S+: Name or service not known"):
        load_backbone(VIT, num_classes=2)
    assert time.perf_counter() - start < 10
    assert constants.HF_HUB_OFFLINE is False


def test_hub_weights_pass_through_timm(monkeypatch, vit):
    # what timm does with weights from its hub, with the download replaced
    monkeypatch.setattr(timm.models._builder, "load_state_dict_from_hf", lambda *args, **kwargs: vit.state_dict())
    monkeypatch.setitem(
        timm.models._registry._model_pretrained_cfgs,
        f"{VIT}.augreg_in21k",
        timm.models.PretrainedCfg(
            **{**timm.get_pretrained_cfg(f"{VIT}.augreg_in21k").to_dict(), "num_classes": 7, "custom_load": False}
        ),
    )
    found = load_backbone(f"{VIT}.augreg_in21k", num_classes=3, size=32)
    assert same_backbone(found.model, vit)
    assert found.source == f"timm {VIT}.augreg_in21k from timm/{VIT}.augreg_in21k"


def test_local_dir(tmp_path, vit):
    timm.models.save_for_hf(vit, tmp_path, safe_serialization=True)
    found = load_backbone(f"local-dir:{tmp_path}", num_classes=3, size=32)
    assert same_backbone(found.model, vit)
    assert str(tmp_path) in found.source
    with pytest.raises(BackboneError, match="tried the folder /nowhere"):
        load_backbone("local-dir:/nowhere", num_classes=3)


def test_incomplete_hub_weights_are_refused(tmp_path, vit, capfd):
    timm.models.save_for_hf(vit, tmp_path, safe_serialization=True)
    state = dict(vit.state_dict())
    state["foreign"] = state["blocks.2.norm1.weight"].clone()
    save_file(state, tmp_path / "model.safetensors")
    assert load_backbone(f"local-dir:{tmp_path}", num_classes=3, size=32).source.endswith("; unused: foreign")
    state.pop("blocks.2.norm1.weight")
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(BackboneError, match=r"are incomplete: missing blocks\.2\.norm1\.weight$"):
        load_backbone(f"local-dir:{tmp_path}", num_classes=3, size=32)
    assert capfd.readouterr() == ("", "")


def test_hub_weights_may_lack_the_norm_of_the_head(tmp_path):
    source = timm.create_model("convnext_atto", num_classes=0)
    timm.models.save_for_hf(source, tmp_path, safe_serialization=True)
    state = {key: value for key, value in source.state_dict().items() if not key.startswith("head.")}
    save_file(state, tmp_path / "model.safetensors")
    found = load_backbone(f"local-dir:{tmp_path}", num_classes=3)
    assert found.source.endswith("; new: head.norm.weight, head.norm.bias")


# settings


@pytest.mark.parametrize(
    ("name", "head"),
    [
        (VIT, "head"),
        ("resnet10t", "fc"),
        ("mobilenetv3_small_050", "classifier"),
        ("convnext_atto", "head.fc"),
        ("swin_tiny_patch4_window7_224", "head.fc"),
        ("regnety_002", "head.fc"),
        ("deit_tiny_distilled_patch16_224", None),
    ],
)
def test_families(name, head):
    found = load_backbone(name, num_classes=3, size=96, pretrained=False)
    assert (found.source, found.head, found.name) == ("random", head, name)
    with torch.no_grad():
        logits = found.model(torch.randn(1, 3, 96, 96))
    assert torch.equal(logits, torch.zeros(1, 3))


def test_preprocessing_is_the_models_own():
    found = load_backbone(f"{VIT}.augreg_in21k", num_classes=3, pretrained=False)
    assert found.preprocessing == {
        "size": 224,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "interpolation": "bicubic",
        "resize": "squash",
    }


def test_drop_path():
    model = load_backbone(VIT, num_classes=3, size=32, pretrained=False, drop_path=0.3).model
    assert model.blocks[-1].drop_path2.drop_prob == pytest.approx(0.3)


def test_drop_path_by_default_where_there_is_any():
    assert load_backbone(VIT, num_classes=3, size=32, pretrained=False, drop_path=None).model.blocks[
        -1
    ].drop_path2.drop_prob == pytest.approx(0.1)
    assert load_backbone("vgg11", num_classes=3, pretrained=False, drop_path=None).head == "head.fc"


@pytest.mark.parametrize("name", ["vgg11", "densenet121"])
def test_drop_path_where_there_is_none(name):
    with pytest.raises(BackboneError, match=f"{name} has no stochastic depth"):
        load_backbone(name, num_classes=3, pretrained=False, drop_path=0.1)


def test_sizes_that_cut_patches():
    with pytest.raises(BackboneError, match=f"{VIT} takes sizes divisible by 16, not 50: use 48 or 64"):
        load_backbone(VIT, num_classes=3, size=50, pretrained=False)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"num_classes": 0}, "num_classes must be at least 1, not 0"),
        ({"size": 0}, "size must be at least 1, not 0"),
        ({"drop_path": 1.0}, r"drop_path must be at least 0 and below 1, not 1\.0"),
    ],
)
def test_settings_out_of_range(setting, message):
    with pytest.raises(BackboneError, match=message):
        load_backbone(VIT, **{"num_classes": 2, "pretrained": False, **setting})
