"""Tasks from miniature folders in the published layouts, and broken ones, which are refused by name."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision import transforms

from data.pictures import fill, picture
from glora.data import Preprocessing
from glora.data.augment import training_transform
from glora.data.vtab import VTAB
from glora.errors import DataError
from glora.protocols import PROTOCOLS, Task, check_protocol, domain, fewshot, tasks
from protocols.miniatures import change, domains, few, vtab

# VTAB-1k


def test_vtab(tmp_path: Path) -> None:
    vtab(tmp_path, "kitti", 4, 711)
    vtab(tmp_path, "oxford_iiit_pet", 37, 3669, folder="oxford_pet")
    found = tasks("vtab", tmp_path, names=["oxford_iiit_pet", "kitti"])
    assert [(task.name, task.group, len(task.listing.classes)) for task in found] == [
        ("oxford_iiit_pet", "natural", 37),
        ("kitti", "structured", 4),
    ]
    for task in found:
        assert (task.protocol, task.shots, task.seed, task.final_on) == ("vtab", None, None, "train+val")
        assert (len(task.listing.train), len(task.listing.val)) == (800, 200)
        assert task.listing.train.labels[3] == 21 % len(task.listing.classes)
        (test,) = task.tests
        assert (test.name, test.spaces, test.part) == ("test", (("test", None),), task.listing.test)
        assert task.preprocessing == Preprocessing(224, resize="squash", interpolation="bicubic")
        assert task.augmentation == "none"
    assert tasks("vtab", tmp_path, names=["oxford_pet"]) == found[:1]


def test_vtab_names_what_is_missing(tmp_path: Path) -> None:
    own = vtab(tmp_path, "kitti", 4, 711)
    problems = check_protocol("vtab", tmp_path).problems
    assert len(problems) == 18
    assert all(any(name in line for line in problems) for name in VTAB if name != "kitti")
    with pytest.raises(DataError, match=r"cifar: no such folder: the data set cifar of VTAB-1k is missing; 17 more"):
        tasks("vtab", tmp_path)
    (own / "train800val200.txt").unlink()
    with pytest.raises(DataError, match=r"train800val200\.txt: no such file: VTAB-1k has"):
        tasks("vtab", tmp_path, names=["kitti"])


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("train800", "000007.jpg 1", "000007.jpg 4", "line 8: label 4 is out of range: there are at most 4 classes"),
        ("val200", "images/val200/000199.jpg", "images/val200/000200.jpg", "line 200: .*000200.jpg: no such file"),
        ("test", "images/test/000710.jpg 2\n", "", "line 710: ends after 710 images, 711 are needed"),
        ("train800val200", "000000.jpg 1", "000000.jpg 2", "has 249 images of class 1, .* have 250: it must hold the"),
    ],
)
def test_broken_vtab(tmp_path: Path, file: str, old: str, new: str, message: str) -> None:
    own = vtab(tmp_path, "kitti", 4, 711)
    change(own / f"{file}.txt", old, new)
    (problem,) = check_protocol("vtab", tmp_path, ["kitti"]).problems
    assert problem.startswith(str(own / f"{file}.txt"))
    with pytest.raises(DataError, match=message):
        tasks("vtab", tmp_path, names=["kitti"])


def test_several_faults_are_a_line_each_and_many_of_a_kind_one(tmp_path: Path) -> None:
    own = vtab(tmp_path, "kitti", 4, 711)
    change(own / "test.txt", "images/", "pictures/", 40)
    change(own / "val200.txt", " 1\n", " x\n")
    first, second = check_protocol("vtab", tmp_path, ["kitti"]).problems
    assert "val200.txt" in first
    assert second.endswith("000000.jpg: no such file; 39 more like it")


# Few-shot


def test_fewshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few(tmp_path, monkeypatch, (1, 4))
    found = tasks("fewshot", tmp_path, names=["oxford-pets", "stanford-cars"])
    key = [(task.name, task.shots, task.seed) for task in found]
    assert key == [(n, k, s) for n in ("oxford-pets", "stanford-cars") for k in (1, 4) for s in (0, 1, 2)]
    assert [len(task.listing.train) for task in found[::3]] == [74, 148, 196, 784]
    pets, cars = found[0].listing, found[6].listing
    assert set(Counter(pets.train.names).values()) == {2}
    assert pets.train.names[0] == "a class/train 0 0 0.jpg"
    assert pets.train.images[0] == tmp_path / "oxford-pets" / "images" / "a class" / "train 0 0 0.jpg"
    assert cars.train.images[0] == tmp_path / "standford-cars" / "cars_train" / "train 0 0 0.jpg"
    assert (len(cars.classes), len(cars.val), len(found[6].tests[0].part)) == (196, 200, 210)
    assert len({task.split for task in found}) == len(found)
    assert tasks("fewshot", tmp_path, names=["standford-cars"], shots=[4], seeds=[1]) == [found[10]]


def test_fewshot_table() -> None:
    known = {name: (own.classes, own.val, own.test) for name, own in fewshot.FEWSHOT.items()}
    assert known == {
        "fgvc-aircraft": (100, 3333, 3333),
        "food-101": (101, 20200, 30300),
        "oxford-flowers102": (102, 1633, 2463),
        "oxford-pets": (37, 736, 3669),
        "stanford-cars": (196, 1635, 8041),
    }


def test_fewshot_transforms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (task,) = tasks("fewshot", few(tmp_path, monkeypatch, (1,)), names=["oxford-pets"], shots=[1], seeds=[0])
    image = picture(3, 300, 200)
    published = transforms.Compose([transforms.Resize((256, 256), interpolation=3), transforms.CenterCrop(224)])
    np.testing.assert_array_equal(task.preprocessing.pixels(image).numpy().transpose(1, 2, 0), published(image))
    transform = training_transform(task.augmentation, task.preprocessing)
    steps = transform.transforms
    assert [type(step).__name__ for step in steps] == [
        "RandomResizedCropAndInterpolation",
        "RandomHorizontalFlip",
        "RandAugment",
        "MaybeToTensor",
        "Normalize",
        "RandomErasing",
    ]
    assert (steps[-1].probability, steps[0].size) == (0.25, (224, 224))
    assert transform(Image.new("RGB", (99, 50))).shape == (3, 224, 224)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("train_meta.list.num_shot_1.seed_2", "a class/train 3 2 0.jpg 3\n", "", r"seed_2, line 73: ends after 73 ima"),
        ("train_meta.list.num_shot_1.seed_1", " 3\n", " 37\n", r"seed_1, line 7: label 37 is out of range"),
        ("val_meta.list", "val_4.jpg", "val_3.jpg", r"line 5: a class/val_3.jpg: stands there 2 times, needed is once"),
        ("val_meta.list", "val_4.jpg", "test_4.jpg", r"val and test share 1 images, such as .*test_4.jpg: none may"),
        ("test_meta.list", "test_5.jpg 5", "test_5.jpg", r"line 6: 'a class/test_5.jpg' is not of the form 'Abyss"),
        ("test_meta.list", "test_5.jpg", "test_x.jpg", r"line 6: .*images/a class/test_x.jpg: no such file"),
        ("val_meta.list", "val_20.jpg 20", "val_20.jpg 2", r"val_meta.list: has no image of class 20: every class"),
    ],
)
def test_broken_fewshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, old: str, new: str, message: str
) -> None:
    few(tmp_path, monkeypatch, (1,))
    change(tmp_path / "oxford-pets" / "annotations" / file, old, new)
    if file.endswith("seed_2"):  # the two other lists are whole
        assert len(check_protocol("fewshot", tmp_path, ["oxford-pets"]).tasks) == 2
    with pytest.raises(DataError, match=message):
        tasks("fewshot", tmp_path, names=["oxford-pets"])


def test_fewshot_names_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few(tmp_path, monkeypatch, (1,))
    found = check_protocol("fewshot", tmp_path)
    assert [problem.split(": ")[0] for problem in found.problems] == [
        str(tmp_path / "food101"),
        str(tmp_path / "oxford-flowers102"),
    ]
    assert len(found.tasks) == 9
    (tmp_path / "fgvc-aircraft" / "annotations" / "train_meta.list.num_shot_1.seed_1").unlink()
    with pytest.raises(DataError, match=r"num_shot_1.seed_1: no such file$"):
        tasks("fewshot", tmp_path, names=["fgvc-aircraft"])


# Domain generalisation


def test_domain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = tasks("domain", domains(tmp_path, monkeypatch))
    assert [(task.name, task.shots, task.seed, len(task.listing.train)) for task in found] == [
        ("imagenet", 16, seed, 96) for seed in range(3)
    ]
    task = found[0]
    assert [test.name for test in task.tests] == [
        "imagenet",
        "imagenet-v2",
        "imagenet-sketch",
        "imagenet-a",
        "imagenet-r",
    ]
    assert dict(task.tests[3].spaces) == {
        "imagenet-a, 6 classes": None,
        "imagenet-a, present classes": (3, 4, 5),
    }
    first = task.tests[0].part
    assert first.names[0] == "ILSVRC2012_val_00000001.JPEG"
    assert first.labels[0] == 5
    assert first.images[0] == tmp_path / "imagenet/val/n00000005/ILSVRC2012_val_00000001.JPEG"
    assert task.tests[3].part.images[0].name == "0.00_soap dispenser _ soap dispenser_0.2.jpg"
    assert task.listing.test is first
    assert task.augmentation == "randaugment"


def test_domain_table() -> None:
    assert domain.IMAGENET == domain.ImageNet(16000, 2959, 50000)
    assert {name: (known.lines, known.present) for name, known in domain.DOMAIN.items()} == {
        "imagenet-v2": (10000, 1000),
        "imagenet-sketch": (50889, 1000),
        "imagenet-a": (7500, 200),
        "imagenet-r": (30000, 200),
    }


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (
            "imagenet/annotations/val_meta.list",
            "00000003",
            "00000093",
            r"line 3: ILSVRC2012_val_00000093.JPEG: no",
        ),
        ("imagenet-adversarial/annotations/val_meta.list", " 3\n", " 4\n", "of 3 classes|has images of 3"),
        ("imagenet-rendition/annotations/val_meta.list", " 4\n", " 6\n", "line 1: label 6 is out of range"),
        ("imagenet/annotations/unofficial_val_list_4_shot16seed0", "val_0", "n00000000_00", "share 1 images, such as"),
    ],
)
def test_broken_domain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, old: str, new: str, message: str
) -> None:
    domains(tmp_path, monkeypatch)
    change(tmp_path / file, old, new)
    if "adversarial" in file:
        change(tmp_path / file, " 3\n", " 4\n")
        message = "has images of 2 classes, 3 are needed"
    with pytest.raises(DataError, match=message):
        tasks("domain", tmp_path)


def test_domain_names_every_missing_set(tmp_path: Path) -> None:
    problems = check_protocol("domain", tmp_path).problems
    assert [problem.split(": ")[0].rsplit("/")[-1] for problem in problems] == [
        "imagenet",
        "imagenetv2",
        "imagenet-sketch",
        "imagenet-adversarial",
        "imagenet-rendition",
    ]


# One's own


def test_own(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        fill(tmp_path / "pets" / name, 20)
    found = tasks("own", tmp_path / "pets", shots=[1, 4], seeds=[0, 1])
    assert [(task.shots, task.seed, len(task.listing.train)) for task in found] == [
        (1, 0, 2),
        (1, 1, 2),
        (4, 0, 8),
        (4, 1, 8),
    ]
    assert isinstance(found[0], Task)
    assert set(found[0].listing.train.names) < set(found[2].listing.train.names)
    assert (found[0].protocol, found[0].name) == (None, "pets")
    with pytest.raises(DataError, match="class 'cat' has 12 training images, 13 are needed"):
        tasks("own", tmp_path / "pets", shots=[13])


@pytest.mark.parametrize(
    ("protocol", "choices", "message"),
    [
        ("vtab", {"names": ["kity"]}, "protocol vtab has no data set 'kity': .*; did you mean 'kitti'"),
        ("domain", {"names": ["x"]}, "protocol domain has no data set 'x': there are imagenet"),
        ("vtab", {"shots": [1]}, "protocol vtab, shots 1: it has no shots"),
        ("fewshot", {"shots": [3]}, "protocol fewshot, shots 3: there are 1, 2, 4, 8, 16"),
        ("fewshot", {"seeds": [3]}, "protocol fewshot, seeds 3: there are 0, 1, 2"),
        ("domain", {"shots": [4]}, "protocol domain, shots 4: there are 16"),
        ("own", {"names": ["x"]}, "data of one's own have no names"),
        ("x", {}, "protocol 'x' is none of vtab, fewshot, domain, own"),
    ],
)
def test_choices_that_a_protocol_has_not(tmp_path: Path, protocol: str, choices: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        tasks(protocol, tmp_path, **choices)
    assert PROTOCOLS == ("vtab", "fewshot", "domain", "own")
