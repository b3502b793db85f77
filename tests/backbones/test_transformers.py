"""Image classifiers of transformers from local folders."""

import builtins
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from glora.backbones import load_backbone
from glora.errors import BackboneError

transformers = pytest.importorskip("transformers")

TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}


pytestmark = pytest.mark.usefixtures("_hub_offline")


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    config = transformers.ViTConfig(**TINY, intermediate_size=32, num_labels=10)
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


@pytest.fixture
def dino(tmp_path):
    config = transformers.Dinov2Config(**TINY, num_labels=10)
    transformers.Dinov2ForImageClassification(config).save_pretrained(tmp_path / "dino")
    return tmp_path / "dino"


def processor(folder, **settings):
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))


def test_loads_a_saved_folder(folder, capfd):
    expected = transformers.ViTForImageClassification.from_pretrained(folder).eval()
    capfd.readouterr()
    found = load_backbone(f"hf:{folder}", num_classes=4)
    assert type(found.model) is transformers.ViTForImageClassification
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(
            found.model.base_model(images).last_hidden_state, expected.base_model(images).last_hidden_state
        )
        assert torch.equal(found.model(images).logits, torch.zeros(2, 4))
    assert (found.head, found.model.training) == ("classifier", False)
    assert str(folder) in found.source
    assert capfd.readouterr() == ("", "")


def test_own_classifier_is_replaced_too(folder):
    found = load_backbone(f"hf:{folder}", num_classes=10)
    assert not found.model.get_submodule("classifier").weight.any()


def test_half_precision_is_read_as_single(folder):
    transformers.ViTForImageClassification.from_pretrained(folder).half().save_pretrained(folder)
    assert {p.dtype for p in load_backbone(f"hf:{folder}", num_classes=4).model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, (32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic")),
        (
            {"size": {"height": 32, "width": 32}, "image_mean": [0.1, 0.2, 0.3], "image_std": [1, 2, 3], "resample": 2},
            (32, (0.1, 0.2, 0.3), (1.0, 2.0, 3.0), "bilinear"),
        ),
        (
            {"size": {"shortest_edge": 36}, "do_center_crop": True, "crop_size": 32, "do_normalize": False},
            (32, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bicubic"),
        ),
    ],
)
def test_preprocessing(folder, settings, expected):
    if settings:
        processor(folder, **settings)
    got = load_backbone(f"hf:{folder}", num_classes=4).preprocessing
    assert (got["size"], got["mean"], got["std"], got["interpolation"]) == expected
    assert got["resize"] == "squash"


def test_preprocessing_without_file_is_imagenet_for_other_types(dino):
    assert load_backbone(f"hf:{dino}", num_classes=4).preprocessing["mean"] == (0.485, 0.456, 0.406)


def edit(folder, change):
    path = folder / "model.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path, metadata={"format": "pt"})


def test_missing_backbone_weights_are_an_error(folder):
    edit(folder, lambda s: [s.pop(key) for key in list(s) if "layernorm_before.weight" in key])
    with pytest.raises(
        BackboneError, match=r"does not fill ViTForImageClassification: missing vit\..*layernorm_before"
    ):
        load_backbone(f"hf:{folder}", num_classes=4)


def test_misshapen_backbone_weights_are_an_error(folder):
    edit(folder, lambda s: s.update({"vit.layernorm.bias": torch.zeros(5)}))
    with pytest.raises(BackboneError, match=r"misshapen vit\.layernorm\.bias"):
        load_backbone(f"hf:{folder}", num_classes=4)


def test_absent_classifier_is_made(folder):
    edit(folder, lambda s: [s.pop(key) for key in list(s) if key.startswith("classifier")])
    assert load_backbone(f"hf:{folder}", num_classes=4).model.get_submodule("classifier").out_features == 4


def test_unused_tensors_are_named(folder):
    edit(folder, lambda s: s.update({"vit.pooled.weight": torch.zeros(2)}))
    assert load_backbone(f"hf:{folder}", num_classes=4).source.endswith("; unused: vit.pooled.weight")


def test_sizes(folder, dino):
    assert load_backbone(f"hf:{dino}", num_classes=4, size=48).preprocessing["size"] == 48
    with pytest.raises(BackboneError, match=r"does not take images of 48 pixels: ValueError: .*; use 32$"):
        load_backbone(f"hf:{folder}", num_classes=4, size=48)


def test_drop_path(folder, dino):
    assert load_backbone(f"hf:{dino}", num_classes=4, drop_path=0.1).model.config.drop_path_rate == 0.1
    assert load_backbone(f"hf:{dino}", num_classes=4, drop_path=None).model.config.drop_path_rate == 0.1
    assert load_backbone(f"hf:{folder}", num_classes=4, drop_path=None).model.config.num_labels == 4
    with pytest.raises(BackboneError, match="has no stochastic depth"):
        load_backbone(f"hf:{folder}", num_classes=4, drop_path=0.1)


def test_random_only_when_asked_for(folder):
    (folder / "model.safetensors").unlink()
    assert load_backbone(f"hf:{folder}", num_classes=4, pretrained=False).source == "random"
    with pytest.raises(BackboneError, match="tried the folder"):
        load_backbone(f"hf:{folder}", num_classes=4)


def test_head_below_a_sequence(tmp_path):
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], num_labels=3)
    transformers.ResNetForImageClassification(config).save_pretrained(tmp_path)
    found = load_backbone(f"hf:{tmp_path}", num_classes=5)
    assert found.head == "classifier.1"
    assert isinstance(found.model.get_submodule(found.head), nn.Linear)
    assert found.preprocessing["size"] == 224


def test_not_a_vision_model(tmp_path):
    transformers.BertConfig().save_pretrained(tmp_path)
    with pytest.raises(BackboneError, match="BertConfig") as caught:
        load_backbone(f"hf:{tmp_path}", num_classes=5)
    assert "\n" not in str(caught.value)


def test_hub_offline():
    with pytest.raises(BackboneError, match=r"tried the hub repository google/vit \(offline, HF_HUB_OFFLINE is set"):
        load_backbone("hf:google/vit", num_classes=5)


@pytest.mark.parametrize("place", ["./nowhere", "/a/b", "a/b/c", "one"])
def test_neither_folder_nor_repository(place):
    with pytest.raises(BackboneError, match="is neither a local folder nor a hub repository"):
        load_backbone(f"hf:{place}", num_classes=5)


def test_refuses_a_checkpoint(folder):
    with pytest.raises(BackboneError, match="brings its own weights"):
        load_backbone(f"hf:{folder}", num_classes=5, checkpoint="a.safetensors")


def test_missing_package(monkeypatch, folder):
    original = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "transformers":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(BackboneError, match=r'pip install "glora\[transformers\]"$'):
        load_backbone(f"hf:{folder}", num_classes=5)
