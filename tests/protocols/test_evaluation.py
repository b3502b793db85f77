"""Several test sets with all and with the present classes, against the definition on the logits themselves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import glora
from data.pictures import picture
from glora.backbones import load_backbone
from glora.checkpoint import save_merged
from glora.data import Preprocessing, TensorSamples
from glora.data.listing import Part
from glora.errors import DataError
from glora.evaluate import evaluate, evaluate_spaces
from glora.protocols import TestSet, evaluate_task, interpolate, open_task, parse_alphas, tasks
from protocols.miniatures import domains
from small_run import succeed

pytestmark = pytest.mark.usefixtures("single_threaded")
SMALL = Preprocessing(size=32)


class Fixed(nn.Module):
    """Gives its inputs as logits."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


def test_masked_logits_are_as_if_the_others_were_not_there() -> None:
    logits, labels = torch.randn(40, 7, dtype=torch.float32), torch.randint(0, 3, (40,)) * 2
    samples = TensorSamples(logits, labels)
    found = evaluate_spaces(Fixed(), samples, {"all": None, "some": (0, 2, 4)}, batch_size=7)
    assert found["all"] == evaluate(Fixed(), samples)
    masked = logits.double().clone()
    masked[:, [1, 3, 5, 6]] = -torch.inf
    assert found["some"].accuracy == (masked.argmax(1) == labels).double().mean()
    wanted = -masked.log_softmax(1)[torch.arange(40), labels].mean()
    assert found["some"].loss == pytest.approx(wanted.item())
    assert found["some"].accuracy > found["all"].accuracy


def test_labels_and_classes_without_a_logit() -> None:
    samples = TensorSamples(torch.zeros(2, 3), [0, 2])
    with pytest.raises(DataError, match="some: label 2 is none of the classes that count"):
        evaluate_spaces(Fixed(), samples, {"some": (0, 1)})
    with pytest.raises(DataError, match="label 5 has no logit: the model's head has 3 outputs"):
        evaluate_spaces(Fixed(), samples, {"some": (0, 2, 5)})
    with pytest.raises(DataError, match="label 3 has no logit"):
        evaluate_spaces(Fixed(), TensorSamples(torch.zeros(1, 3), [3]), {"all": None})


@pytest.fixture
def net() -> glora.GLoRAModel:
    backbone = load_backbone("test_vit", num_classes=6, size=32, pretrained=False)
    net = glora.adapt(backbone.model, glora.presets.lora(rank=2))
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return net


def test_all_figures_of_domain_generalisation(
    net: glora.GLoRAModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = tasks("domain", domains(tmp_path, monkeypatch), seeds=[0])[0]
    found = evaluate_task(net, task.tests, SMALL).accuracies()
    assert list(found) == [
        f"{name}, {space}"
        for name in ("imagenet", "imagenet-v2", "imagenet-sketch", "imagenet-a", "imagenet-r")
        for space in ("6 classes", "present classes")
    ]
    # one picture stands behind all names
    image = Image.open(tmp_path / "imagenet" / "annotations" / "picture.jpg").convert("RGB")
    with torch.no_grad():
        logits = net.eval()(SMALL.normalise(SMALL.pixels(image)[None]))[0]
    for test in task.tests:
        present = sorted(set(test.part.labels))
        best = {"6 classes": int(logits.argmax()), "present classes": present[int(logits[present].argmax())]}
        for space, winner in best.items():
            share = sum(label == winner for label in test.part.labels) / len(test.part)
            assert found[f"{test.name}, {space}"] == pytest.approx(share)


def test_the_curve_is_that_of_the_merged_models(net: glora.GLoRAModel, tmp_path: Path) -> None:
    for index in range(12):
        picture(index).save(tmp_path / f"{index}.png")
    files = tuple(tmp_path / f"{index}.png" for index in range(12))
    tests = [TestSet.shifted("x", Part(files, tuple(map(str, files)), tuple(i % 3 for i in range(12))), 6)]
    found = interpolate(net, (0.0, 0.3, 1), tests, SMALL)
    assert list(found) == ["0.0", "0.3", "1.0"]
    for alpha, score in found.items():
        assert score == evaluate_task(net.merge(alpha=float(alpha)), tests, SMALL)
    losses = [score.scores["x, 6 classes"].loss for score in found.values()]
    assert len(set(losses)) == 3


def test_bad_images_are_skipped_when_asked(net: glora.GLoRAModel, tmp_path: Path) -> None:
    picture(0).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no image")
    tests = [TestSet.plain("test", Part((tmp_path / "a.png", tmp_path / "b.png"), ("a", "b"), (0, 1)))]
    with pytest.raises(DataError, match=r"b\.png: is no image"):
        evaluate_task(net, tests, SMALL)
    assert evaluate_task(net, tests, SMALL, skip_bad=True).skipped == 1


def test_domain_generalisation_from_the_command_line(
    net: glora.GLoRAModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = domains(tmp_path / "data", monkeypatch)
    about = {
        "backbone": "test_vit",
        "backbone_arguments": {"size": 32},
        "classes": [str(label) for label in range(6)],
        "preprocessing": SMALL.to_dict(),
    }
    save_merged(net.merge(), tmp_path / "x.safetensors", about)
    words = ["eval", tmp_path / "x.safetensors", "--data", root, "--protocol=domain", "--precision=fp32"]
    found = json.loads(succeed(*words, "--json").out)
    assert found["tests"] == evaluate_task(net.merge(), open_task("domain", root).tests, SMALL).accuracies()
    assert found["images"]["imagenet-r"] == 4
    lines = succeed(*words).out.splitlines()
    assert lines[0].split() == ["test", "set", "accuracy", "%"]
    assert [line.rsplit(maxsplit=1)[0].strip() for line in lines[1:]] == list(found["tests"])


def test_alphas() -> None:
    assert parse_alphas("0:1:0.1") == tuple(index / 10 for index in range(11))
    assert parse_alphas("0.2:0.75:0.25") == (0.2, 0.45, 0.7)
    assert parse_alphas("0,0.5,1") == (0, 0.5, 1)
