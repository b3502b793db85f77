"""The pipeline: the merged file is a plain model, and a wrong one is not written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from glora.backbones import load_backbone
from glora.checkpoint import load, read_metadata, save_merged
from glora.config import RunConfig
from glora.data import Preprocessing, open_data
from glora.errors import BackboneError, CheckpointError, MergeError
from glora.evaluate import predict_logits
from glora.model import GLoRAModel
from glora.run import Run
from small_run import (
    Told,
    backbone_of,
    copy_of,
    finished,
    finished_hf,
    hf_settings,
    names_in,
    run_of,
    same_tensors,
    spawn,
    succeed,
)

pytestmark = pytest.mark.usefixtures("single_threaded")


LOADERS = {
    "timm": """
import json, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "glora":
            raise ImportError("glora is not to be had here")
sys.meta_path.insert(0, Blocked())
import timm, torch
from safetensors.torch import load_file, save_file
merged, inputs, out = sys.argv[1:]
model = timm.create_model("test_vit", img_size=32, num_classes=3)
result = model.load_state_dict(load_file(merged), strict=True)
with torch.no_grad():
    save_file({"logits": model.eval()(load_file(inputs)["inputs"])}, out)
print(json.dumps({"type": type(model).__name__, "keys": list(model.state_dict()), "glora": "glora" in sys.modules}))
""",
    "transformers": """
import json, shutil, sys
from pathlib import Path
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "glora":
            raise ImportError("glora is not to be had here")
sys.meta_path.insert(0, Blocked())
import torch, transformers
from safetensors.torch import load_file, save_file
merged, inputs, out, folder = sys.argv[1:]
# The folder as a user would make it: the model's own config with three labels, and the merged file as its weights.
(Path(out).parent / "plain").mkdir()
shutil.copy(Path(folder) / "config.json", Path(out).parent / "plain")
shutil.copy(merged, Path(out).parent / "plain" / "model.safetensors")
model, info = transformers.ViTForImageClassification.from_pretrained(
    Path(out).parent / "plain", num_labels=3, output_loading_info=True
)
assert not any(info.values()), info
with torch.no_grad():
    save_file({"logits": model.eval()(load_file(inputs)["inputs"]).logits}, out)
print(json.dumps({"type": type(model).__name__, "keys": list(model.state_dict()), "glora": "glora" in sys.modules}))
""",
}


@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_the_merged_file_is_a_plain_model_of_its_library_alone(
    library: str, tmp_path: Path, environment: dict[str, str]
) -> None:
    folder = finished() if library == "timm" else finished_hf()
    config = RunConfig.load(folder)
    plain = backbone_of(config)
    keys = list(plain.state_dict())
    net = load(plain, folder / "adapter.safetensors")
    images = open_data(config.data, Preprocessing.from_dict(adapter_preprocessing(folder))).val
    inputs = images.inputs(torch.arange(len(images)))
    save_file({"inputs": inputs}, tmp_path / "inputs.safetensors")
    arguments = [folder / "merged.safetensors", tmp_path / "inputs.safetensors", tmp_path / "logits.safetensors"]
    arguments += [config.model.removeprefix("hf:")] if library == "transformers" else []
    done = spawn(environment, *arguments, program=LOADERS[library])
    assert done.code == 0, done.err
    found = json.loads(done.out)
    kind = {"timm": "VisionTransformer", "transformers": "ViTForImageClassification"}[library]
    assert found == {"type": kind, "keys": keys, "glora": False}
    merged = load_file(folder / "merged.safetensors")
    assert sorted(merged) == sorted(keys)
    assert not [key for key in merged if any(word in key for word in ("glora", "support", "original"))]
    logits, wanted = load_file(tmp_path / "logits.safetensors")["logits"], predict_logits(net, images)
    torch.testing.assert_close(logits, wanted, rtol=0, atol=1e-5)
    assert wanted.abs().max() > 0.05
    frozen = backbone_of(config).state_dict()
    changed = {key for key, value in frozen.items() if not torch.equal(merged[key], value)}
    assert len(changed) > len(heads := {key for key in keys if key.startswith(("head.", "classifier."))}) == 2
    assert heads < changed


def adapter_preprocessing(folder: Path) -> dict[str, Any]:
    return read_metadata(folder / "adapter.safetensors").values["preprocessing"]


def corrupted(merge: Callable[..., torch.nn.Module], value: float) -> Callable[..., torch.nn.Module]:
    def wrong(self: GLoRAModel, *args: Any, **kwargs: Any) -> torch.nn.Module:
        plain = merge(self, *args, **kwargs)
        with torch.no_grad():
            plain.get_parameter("blocks.3.mlp.fc1.weight")[5, 7] += value
        return plain

    return wrong


@pytest.mark.parametrize("value", [3.0, float("nan"), float("inf")])
def test_a_wrong_merge_is_not_written(value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copy_of(finished(), tmp_path)
    (folder / "merged.safetensors").unlink()
    monkeypatch.setattr(GLoRAModel, "merge", corrupted(GLoRAModel.merge, value))
    with pytest.raises(MergeError, match=r"the merged model's logits differ .* nothing was written"):
        Run(RunConfig.load(folder), Told()).merge()
    assert "merged.safetensors" not in names_in(folder)
    assert not [name for name in names_in(folder) if name.endswith(".tmp")]


def test_a_weight_that_is_not_finite_is_not_written(tmp_path: Path) -> None:
    model = load_backbone("test_vit", num_classes=3, size=32, pretrained=False).model
    model.norm.bias.data[0] = torch.inf
    with pytest.raises(CheckpointError, match=r"norm.bias is not finite: nothing was written to .*x.safetensors"):
        save_merged(model, tmp_path / "x.safetensors")
    assert not names_in(tmp_path)


def test_the_merged_file_of_a_run_equals_a_merge_of_its_adapter(tmp_path: Path) -> None:
    succeed("merge", finished() / "adapter.safetensors", "--out", tmp_path / "merged.safetensors")
    assert same_tensors(tmp_path / "merged.safetensors", finished() / "merged.safetensors")


def test_a_model_of_transformers_without_stochastic_depth_needs_no_setting(tmp_path: Path) -> None:
    settings = hf_settings()
    del settings["drop_path"]
    assert run_of(settings, tmp_path / "run").config.drop_path is None
    with pytest.raises(BackboneError, match="has no stochastic depth: leave drop_path at 0"):
        run_of(settings | {"drop_path": 0.1}, tmp_path / "other")
