"""Folders in the published layouts: one picture behind many names, and fewer lines where nothing else changes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from data.pictures import picture
from glora.protocols import domain, fewshot

# Counts that fit in a test; the layouts, classes and labels are the published ones.
SMALL_FEWSHOT = {"fgvc-aircraft": (120, 130), "oxford-pets": (50, 60), "stanford-cars": (200, 210)}
SMALL_PRESENT = {"imagenet-v2": 6, "imagenet-sketch": 6, "imagenet-a": 3, "imagenet-r": 2}


def picture_file(root: Path) -> Path:
    path = root / "picture.jpg"
    if not path.exists():
        root.mkdir(parents=True, exist_ok=True)
        picture(0).save(path)
    return path


def write_list(path: Path, images: Path, rows: Iterable[tuple[str, int]]) -> None:
    """A list, and links to one picture where its paths say."""
    one = picture_file(path.parent)
    lines = []
    for name, label in rows:
        target = images / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            os.link(one, target)
        lines.append(f"{name} {label}\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines))


def change(path: Path, old: str, new: str, count: int = 1) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, count))


def vtab(root: Path, name: str, classes: int, test: int, folder: str | None = None) -> Path:
    """One data set of VTAB-1k with all its numbers; the 1000 come in another order under other names."""
    own = root / (folder or name)
    labels = [index * 7 % classes for index in range(1000)]
    parts = {"train800": labels[:800], "val200": labels[800:], "train800val200": labels[::-1]}
    parts["test"] = [index % classes for index in range(test)]
    for part, found in parts.items():
        rows = [(f"images/{part}/{index:06d}.jpg", label) for index, label in enumerate(found)]
        write_list(own / f"{part}.txt", own, rows)
    return own


def few(root: Path, monkeypatch: pytest.MonkeyPatch, shots: Iterable[int] = (1, 2, 4, 8, 16)) -> Path:
    """Three of the five few-shot sets, in NOAH's folders, with shorter lists to choose and test on."""
    monkeypatch.setattr(fewshot, "SHOTS", tuple(shots))
    for name, (val, test) in SMALL_FEWSHOT.items():
        known = replace(fewshot.FEWSHOT[name], val=val, test=test)
        monkeypatch.setitem(fewshot.FEWSHOT, name, known)
        folder = root / known.folders[0]
        images = folder if name == "stanford-cars" else folder / "images"
        before = "cars_train/" if name == "stanford-cars" else "a class/"
        for count in shots:
            for seed in range(3):
                rows = [
                    (f"{before}train {label} {seed} {k}.jpg", label)
                    for label in range(known.classes)
                    for k in range(count)
                ]
                if name == "oxford-pets" and count == 1:
                    rows = [row for row in rows for _ in range(2)]
                write_list(folder / "annotations" / f"train_meta.list.num_shot_{count}.seed_{seed}", images, rows)
        for part, lines in (("val", val), ("test", test)):
            rows = [(f"{before}{part}_{index}.jpg", index % known.classes) for index in range(lines)]
            write_list(folder / "annotations" / f"{part}_meta.list", images, rows)
    return root


def domains(root: Path, monkeypatch: pytest.MonkeyPatch, classes: int = 6) -> Path:
    """ImageNet and its four shifted sets, with few classes and two images of each to test on."""
    monkeypatch.setattr(domain, "CLASSES", classes)
    monkeypatch.setattr(domain, "IMAGENET", domain.ImageNet(16 * classes, 2 * classes, 2 * classes))
    imagenet = root / "imagenet"
    lists = imagenet / "annotations"
    for seed in range(3):
        rows = [(f"n{label:08d}/n{label:08d}_{seed}{k}.JPEG", label) for label in range(classes) for k in range(16)]
        write_list(lists / f"train_meta.list.num_shot_16.seed_{seed}", imagenet / "train", rows)
    rows = [(f"n{label:08d}/val_{k}.JPEG", label) for label in range(classes) for k in range(2)]
    write_list(lists / "unofficial_val_list_4_shot16seed0", imagenet / "train", rows)
    numbers = range(1, 2 * classes + 1)
    lines = [(f"ILSVRC2012_val_{number:08d}.JPEG", (number * 5) % classes) for number in numbers]
    write_list(lists / "elsewhere", imagenet / "val", [(f"n{label:08d}/{name}", label) for name, label in lines])
    (lists / "elsewhere").unlink()
    (lists / "val_meta.list").write_text("".join(f"{name} {label}\n" for name, label in lines))
    for name, present in SMALL_PRESENT.items():
        known = replace(domain.DOMAIN[name], lines=2 * present, present=present)
        monkeypatch.setitem(domain.DOMAIN, name, known)
        folder = root / known.folders[0]
        labels = range(classes - present, classes)
        rows = [
            (f"{name}/n{label:08d}/0.0{k}_soap dispenser _ soap dispenser_0.2.jpg", label)
            for label in labels
            for k in range(2)
        ]
        write_list(folder / "annotations" / "val_meta.list", folder, rows)
    return root
