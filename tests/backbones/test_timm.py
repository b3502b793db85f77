"""Models of timm: hub weights that cannot be had, local checkpoints, sizes, classifiers."""

import re
import socket
import time
import urllib.request

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import nn

from glora.backbones import load_backbone
from glora.errors import BackboneError

VIT = "vit_tiny_patch16_224"


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def random_vit(size: int = 32, num_classes: int = 7, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = timm.create_model(VIT, img_size=size, num_classes=num_classes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.02)
    return model.eval()


@pytest.fixture(scope="module")
def vit() -> nn.Module:
    return random_vit()


@pytest.fixture(scope="module")
def checkpoint(vit, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "vit.safetensors"
    save_file(vit.state_dict(), path)
    return path


def jax_vit(model: nn.Module, depth: int) -> dict[str, np.ndarray]:
    """The layout of the JAX archives such as ViT-B_16.npz: heads apart, matrices in times out."""

    def array(value):
        return value.detach().numpy()

    width, heads = model.embed_dim, model.blocks[0].attn.num_heads
    out = {
        "cls": array(model.cls_token),
        "embedding/kernel": array(model.patch_embed.proj.weight).transpose(2, 3, 1, 0),
        "embedding/bias": array(model.patch_embed.proj.bias),
        "Transformer/posembed_input/pos_embedding": array(model.pos_embed),
        "Transformer/encoder_norm/scale": array(model.norm.weight),
        "Transformer/encoder_norm/bias": array(model.norm.bias),
        "pre_logits/kernel": np.zeros((width, width), dtype=np.float32),
        "pre_logits/bias": np.zeros(width, dtype=np.float32),
        "head/kernel": np.ones((width, 9), dtype=np.float32),
        "head/bias": np.ones(9, dtype=np.float32),
    }
    for index in range(depth):
        block, at = model.blocks[index], f"Transformer/encoderblock_{index}"
        for ours, theirs in ((block.norm1, "LayerNorm_0"), (block.norm2, "LayerNorm_2")):
            out[f"{at}/{theirs}/scale"], out[f"{at}/{theirs}/bias"] = array(ours.weight), array(ours.bias)
        attention = f"{at}/MultiHeadDotProductAttention_1"
        weights, biases = array(block.attn.qkv.weight).reshape(3, width, width), array(block.attn.qkv.bias)
        for part, matrix, bias in zip(("query", "key", "value"), weights, biases.reshape(3, width), strict=True):
            out[f"{attention}/{part}/kernel"] = matrix.T.reshape(width, heads, width // heads)
            out[f"{attention}/{part}/bias"] = bias.reshape(heads, width // heads)
        out[f"{attention}/out/kernel"] = array(block.attn.proj.weight).T.reshape(heads, width // heads, width)
        out[f"{attention}/out/bias"] = array(block.attn.proj.bias)
        for layer, theirs in ((block.mlp.fc1, "Dense_0"), (block.mlp.fc2, "Dense_1")):
            out[f"{at}/MlpBlock_3/{theirs}/kernel"] = array(layer.weight).T
            out[f"{at}/MlpBlock_3/{theirs}/bias"] = array(layer.bias)
    return out


def same_backbone(ours: nn.Module, theirs: nn.Module) -> bool:
    expected = theirs.state_dict()
    return all(torch.equal(v, expected[k]) for k, v in ours.state_dict().items() if not k.startswith("head."))


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


# local checkpoints


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt", ".bin"])
def test_checkpoint_fills_all_but_a_neutral_head(tmp_path, vit, suffix):
    path = tmp_path / f"vit{suffix}"
    if suffix == ".safetensors":
        save_file(vit.state_dict(), path)
    else:
        torch.save({"model": vit.state_dict(), "epoch": 3}, path)
    for classes in (3, 7):  # 7 is the checkpoint's own
        found = load_backbone(VIT, num_classes=classes, size=32, checkpoint=path)
        assert same_backbone(found.model, vit)
        assert not any(parameter.any() for parameter in found.model.head.parameters())
        assert found.model(torch.randn(1, 3, 32, 32)).shape == (1, classes)
    assert found.head == "head"
    assert not found.model.training
    assert str(path) in found.source


def test_checkpoint_without_classifier(tmp_path, vit):
    path = tmp_path / "vit.safetensors"
    save_file({key: value for key, value in vit.state_dict().items() if not key.startswith("head.")}, path)
    assert same_backbone(load_backbone(VIT, num_classes=3, size=32, checkpoint=str(path)).model, vit)


def test_checkpoint_of_another_size_is_resampled(checkpoint, vit):
    model = load_backbone(VIT, num_classes=3, size=64, checkpoint=checkpoint).model
    expected = timm.layers.resample_abs_pos_embed(vit.pos_embed, [4, 4], [2, 2], num_prefix_tokens=1)
    torch.testing.assert_close(model.pos_embed, expected)
    assert torch.equal(model.blocks[3].attn.qkv.weight, vit.blocks[3].attn.qkv.weight)


def test_the_same_call_gives_the_same_model(checkpoint):
    one, two = (load_backbone(VIT, num_classes=3, size=48, checkpoint=checkpoint).model for _ in range(2))
    expected = two.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in one.state_dict().items())


def test_old_checkpoints_may_lack_batch_counters(tmp_path):
    source = timm.create_model("resnet18", num_classes=4)
    path = tmp_path / "resnet.pth"
    torch.save({k: v for k, v in source.state_dict().items() if not k.endswith("num_batches_tracked")}, path)
    found = load_backbone("resnet18", num_classes=2, size=40, checkpoint=path)
    assert torch.equal(found.model.layer1[0].conv1.weight, source.layer1[0].conv1.weight)
    assert (found.head, found.preprocessing["size"]) == ("fc", 40)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("blocks.3.mlp.fc1.bias"), r"does not fit \w+: missing blocks\.3\.mlp\.fc1\.bias$"),
        (lambda s: s.update({"foreign.weight": torch.ones(2)}), r"does not fit \w+: unexpected foreign\.weight$"),
        (lambda s: s.update({"norm.bias": torch.ones(5)}), r"misshapen norm\.bias \(5,\) instead of \(192,\)$"),
        (
            lambda s: [s.pop(f"blocks.{i}.norm1.bias") for i in range(5)],
            r"missing blocks\.0\.norm1\.bias, blocks\.1\.norm1\.bias, blocks\.2\.norm1\.bias and 2 more$",
        ),
    ],
)
def test_checkpoint_must_fit_exactly(tmp_path, vit, change, message):
    state = dict(vit.state_dict())
    change(state)
    path = tmp_path / "vit.safetensors"
    save_file(state, path)
    with pytest.raises(BackboneError, match=message):
        load_backbone(VIT, num_classes=3, size=32, checkpoint=path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".npz"])
@pytest.mark.parametrize("content", [b"", b"nonsense, and not a little of it"])
def test_damaged_files(tmp_path, suffix, content):
    path = tmp_path / f"vit{suffix}"
    path.write_bytes(content)
    with pytest.raises(BackboneError, match=r"cannot be read as weights|does not fit VisionTransformer") as caught:
        load_backbone(VIT, num_classes=3, size=32, checkpoint=path)
    assert "\n" not in str(caught.value)


def test_pickled_code_is_never_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return pytest.fail, ("the pickle was executed",)

    path = tmp_path / "vit.pth"
    torch.save({"model": Evil()}, path)
    with pytest.raises(BackboneError, match=r"cannot be read as weights: .*weights_only=True"):
        load_backbone(VIT, num_classes=3, size=32, checkpoint=path)


def test_a_pickle_that_holds_no_weights(tmp_path):
    path = tmp_path / "vit.pth"
    torch.save([1, 2], path)
    with pytest.raises(BackboneError, match=r"vit\.pth"):
        load_backbone(VIT, num_classes=3, size=32, checkpoint=path)


def test_files_that_are_absent_or_unknown(tmp_path):
    with pytest.raises(BackboneError, match=r"no such checkpoint file: .*none\.pth"):
        load_backbone(VIT, num_classes=3, checkpoint=tmp_path / "none.pth")
    (tmp_path / "vit.h5").touch()
    with pytest.raises(BackboneError, match=r"vit\.h5 is of an unknown kind: known are \.safetensors"):
        load_backbone(VIT, num_classes=3, checkpoint=tmp_path / "vit.h5")


# JAX archives


@pytest.mark.parametrize("classes", [3, 9])
def test_npz(tmp_path, vit, classes):
    path = tmp_path / "ViT.npz"
    np.savez(path, **jax_vit(vit, depth=12))
    found = load_backbone(f"{VIT}.augreg_in21k", num_classes=classes, size=32, checkpoint=path)
    assert same_backbone(found.model, vit)
    assert not any(parameter.any() for parameter in found.model.head.parameters())
    assert "ViT.npz" in found.source


def test_npz_of_another_size(tmp_path, vit):
    path = tmp_path / "ViT.npz"
    np.savez(path, **jax_vit(vit, depth=12))
    model = load_backbone(VIT, num_classes=3, size=64, checkpoint=path).model
    assert model.pos_embed.shape == (1, 17, 192)
    assert torch.equal(model.blocks[11].mlp.fc2.weight, vit.blocks[11].mlp.fc2.weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("Transformer/encoderblock_7/LayerNorm_2/bias"), "encoderblock_7/LayerNorm_2/bias"),
        (lambda a: a.update({"Transformer/encoderblock_12/x": np.ones(5)}), "5 values have no place in it"),
        (lambda a: a.update({"cls": np.full_like(a["cls"], np.nan)}), "missing or not finite cls_token"),
        (lambda a: a.update({"embedding/bias": np.ones(5, np.float32)}), "RuntimeError: .*size"),
        (lambda a: a.clear(), "does not fit VisionTransformer"),
    ],
)
def test_npz_must_fit_exactly(tmp_path, vit, change, message):
    arrays = jax_vit(vit, depth=12)
    change(arrays)
    np.savez(tmp_path / "ViT.npz", **arrays)
    with pytest.raises(BackboneError, match=message):
        load_backbone(VIT, num_classes=3, size=32, checkpoint=tmp_path / "ViT.npz")


def test_npz_for_a_model_that_reads_none(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.ones(2))
    with pytest.raises(BackboneError, match=r"ResNet cannot read \.npz files"):
        load_backbone("resnet18", num_classes=3, checkpoint=tmp_path / "a.npz")


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
