"""Local checkpoints of timm's models: what is read, what is refused, the archives of JAX."""

import numpy as np
import pytest
import timm
import torch
from random_vits import VIT, same_backbone
from safetensors.torch import save_file
from torch import nn

from glora.backbones import load_backbone
from glora.errors import BackboneError

pytestmark = pytest.mark.usefixtures("_hub_offline")


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
