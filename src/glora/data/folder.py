"""Image folders: one folder for each class, with or without folders for the splits above them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from glora.data.cut import cut_off
from glora.data.images import SUFFIXES, check_header, quiet
from glora.data.listing import Listing, Part
from glora.errors import DataError

__all__ = ["SPLIT_NAMES", "check_files", "has_splits", "images_in", "list_folder", "list_whole"]

SPLIT_NAMES = {"train": "train", "val": "val", "validation": "val", "valid": "val", "test": "test"}
"""What the parts of a data set may be called, and are."""
_MEND = "mend or remove it, or go on without it (--skip-bad)"


def list_folder(
    root: str | Path,
    *,
    seed: int = 0,
    val_fraction: float = 0.2,
    test_fraction: float = 0.2,
    skip_bad: bool = False,
) -> Listing:
    """List ``root/<class>/**`` or ``root/{train,val,test}/<class>/**``, reading no more than the images' headers.

    Hidden files, and files whose suffix is no image's, are passed over. Names are sorted. Validation images, where
    there are none, are cut from the training images; test images only from a folder without splits.

    Args:
        root: the folder.
        seed: of the cuts.
        val_fraction: share cut off for validation.
        test_fraction: share cut off for the test; with 0 there is none.
        skip_bad: go on without files that are no images.

    Raises:
        DataError: one line naming the file or folder at fault and what to do.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root}: {'is no folder' if root.exists() else 'no such folder'}")
    folders = _folders(root)
    if not folders:
        loose = next(images_in(root), None)
        holds = "holds images but no class folders" if loose else "holds no class folders"
        raise DataError(f"{root}: {holds}: sort the images into {root}/<class>/")
    skipped = _check_loose_files(root, skip_bad)
    split_folders = _split_folders(root, folders)
    class_folders = _folders(split_folders["train"]) if split_folders else folders
    classes = tuple(folder.name for folder in class_folders)
    if not classes:
        raise DataError(f"{split_folders['train']}: holds no class folders: sort the images into train/<class>/")
    if len(classes) == 1:
        raise DataError(f"{root}: has one class only ({classes[0]!r}): two or more are needed")
    parts: dict[str, Part] = {}
    for split, folder in split_folders.items() or {"all": root}.items():
        parts[split], bad = _list_part(root, folder, classes, must_fill=split in ("train", "all"), skip_bad=skip_bad)
        skipped += bad
    layout = f"DIR/{{{','.join(split_folders)}}}/<class>/*" if split_folders else "DIR/<class>/*"
    cut, layout = cut_off(parts, classes, layout, seed, val_fraction, test_fraction)
    name = root.resolve().name
    return Listing(name, layout, classes, cut["train"], cut["val"], cut.get("test"), tuple(skipped))


def has_splits(root: str | Path) -> bool:
    """Whether a folder holds ``train/<class>/*`` rather than ``<class>/*``."""
    root = Path(root)
    folders = _folders(root) if root.is_dir() else []
    return bool(folders) and bool(_split_folders(root, folders))


def list_whole(root: str | Path, *, skip_bad: bool = False) -> Listing:
    """List ``root/<class>/**`` as one part, to evaluate on; a class may have a single image.

    Returns:
        A listing whose training part holds all images.

    Raises:
        DataError: one line naming the file or folder at fault and what to do.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root}: {'is no folder' if root.exists() else 'no such folder'}")
    classes = tuple(folder.name for folder in _folders(root))
    if not classes:
        raise DataError(f"{root}: holds no class folders: sort the images into {root}/<class>/")
    loose = _check_loose_files(root, skip_bad)
    part, skipped = _list_part(root, root, classes, must_fill=False, skip_bad=skip_bad)
    layout = "DIR/<class>/*, as a whole"
    return Listing(root.resolve().name, layout, classes, part, part.take(()), None, tuple(loose + skipped))


def _split_folders(root: Path, folders: list[Path]) -> dict[str, Path]:
    """The folders of train, val and test, in this order; none where the folders are classes."""
    found: dict[str, Path] = {}
    others = [folder for folder in folders if folder.name.lower() not in SPLIT_NAMES]
    splits = [folder for folder in folders if folder not in others]
    for folder in splits:
        both = {other.name for other in others} & {inner.name for inner in _folders(folder)}
        if both:
            raise DataError(f"{root}: has class {min(both)!r} both in {folder.name}/ and beside it: move one away")
    train = next((folder for folder in splits if folder.name.lower() == "train"), None)
    if others and (train is None or not _folders(train)):
        return {}  # a class may be called "train" or "test"
    if train is None:
        raise DataError(f"{root}: has {', '.join(folder.name for folder in splits)} but no folder train")
    if others:
        raise DataError(f"{others[0]}: stands beside train/ but is none of train, val, test: move it elsewhere")
    for folder in splits:
        part = SPLIT_NAMES[folder.name.lower()]
        if part in found:
            raise DataError(f"{root}: {found[part].name} and {folder.name} mean the same: leave one of them")
        found[part] = folder
    return {part: found[part] for part in ("train", "val", "test") if part in found}


def _list_part(
    root: Path, folder: Path, classes: tuple[str, ...], *, must_fill: bool, skip_bad: bool
) -> tuple[Part, list[tuple[str, str]]]:
    skipped = [] if folder == root else _check_loose_files(folder, skip_bad)
    images: list[Path] = []
    labels: list[int] = []
    for class_folder in _folders(folder):
        if class_folder.name not in classes:
            raise DataError(f"{class_folder}: class {class_folder.name!r} has no folder in train")
        usable, bad = check_files(list(images_in(class_folder)), skip_bad)
        skipped += bad
        if not usable and must_fill:
            why = f"none of its {len(bad)} images can be read" if bad else "holds no images"
            raise DataError(f"{class_folder}: {why}: add some, or remove the folder")
        images += usable
        labels += [classes.index(class_folder.name)] * len(usable)
    if not images:
        raise DataError(f"{folder}: holds no images in class folders: add some, or remove the folder")
    names = tuple(path.relative_to(root).as_posix() for path in images)
    return Part(tuple(images), names, tuple(labels)), skipped


def check_files(files: list[Path], skip_bad: bool) -> tuple[list[Path], list[tuple[str, str]]]:
    """Those whose headers are images' headers, and path and reason of the others."""
    usable: list[Path] = []
    bad: list[tuple[str, str]] = []
    with quiet():
        for path in files:
            try:
                check_header(path)
                usable.append(path)
            except DataError as error:
                if not skip_bad:
                    raise DataError(f"{error}: {_MEND}") from error
                bad.append((str(path), str(error).removeprefix(f"{path}: ")))
    return usable, bad


def _check_loose_files(folder: Path, skip_bad: bool) -> list[tuple[str, str]]:
    """Images beside the class folders, which belong to no class."""
    loose = [path for path in _visible(folder) if _is_image(path)]
    if loose and not skip_bad:
        raise DataError(f"{loose[0]}: lies in no class folder: move it, or go on without it (--skip-bad)")
    return [(str(path), "lies in no class folder") for path in loose]


def _folders(folder: Path) -> list[Path]:
    return [path for path in _visible(folder) if path.is_dir()]


def images_in(folder: Path, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[Path]:
    """All image files in a folder and its sub-folders, sorted within each."""
    status = os.stat(folder)
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        return  # a link to a folder above
    for path in _visible(folder):
        if path.is_dir():
            yield from images_in(path, above | {identity})
        elif _is_image(path):
            yield path


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.is_dir()
