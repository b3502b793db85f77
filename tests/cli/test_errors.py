"""What goes wrong by the user's hand: exit code 2 and one line on stderr with what, where and what to do."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from data.pictures import bomb, cut_short
from glora.cli import commands
from small_run import (
    FAST,
    Outcome,
    call,
    copy_of,
    finished,
    flags,
    hf_settings,
    names_in,
    paint,
    paint_split,
    pictures,
    spawn,
    succeed,
    timm_settings,
    write_weights,
)


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def refused(done: Outcome, message: str) -> None:
    """Exit code 2, nothing on stdout, and exactly one line on stderr that matches."""
    assert done.code == 2, done.err
    assert done.out == ""
    assert done.err.endswith("\n")
    (line,) = done.err.splitlines()
    assert line.startswith("glora"), line
    assert re.search(message, line), line


def run_words(out: Path, **settings: object) -> list[str]:
    return ["run", *flags(timm_settings(**FAST) | settings), f"--out={out}"]


# Words


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["frobnicate"], r"invalid choice: 'frobnicate' \(choose from 'run', 'train', .*\(see glora --help\)"),
        (["run", "--data=x", "--model=y", "--eppochs=3"], "unrecognized arguments: --eppochs=3"),
        (["run", "--data=x", "--model=y", "--epochs=many"], "--epochs: expected a value of type int, not many"),
        (
            ["run", "--data=x", "--model=y", "--precision=fp8"],
            "--precision: expected one of .*fp32.*bf16.*fp16.*, not fp8",
        ),
        (["run", "--data=x", "--model=y", "--epochs"], "epochs.*expected one argument|expected one argument.*epochs"),
        (["run", "--model=y"], "^glora run: --data is needed"),
        (["run", "--data=x"], "^glora run: --model is needed"),
        (["run", "--data=x", "--model=y", "--config=nowhere.yaml"], r"File does not exist: .*nowhere\.yaml"),
        (["predict", "runs/x"], "^glora predict: IMAGES is needed"),
        (["predict", "runs/x", "a.png", "--top=0"], "--top is 1 or more, not 0"),
        (["eval", "x.safetensors"], "say what to evaluate on: --data DIR"),
        (["eval", "runs/x", "--split=middle"], "--split: expected one of .*train.*val.*test.*all.*, not middle"),
        (["merge", "runs/x", "--alpha=half"], "--alpha: expected a value of type float, not half"),
        (["search"], "^glora search: RUN is needed"),
        (["info", "test_vit", "--rank=0"], "the rank of a search space is 1 or more, not 0"),
        (["info", "test_vit", "--classes=0"], "num_classes must be at least 1, not 0"),
        (["info", "test_vit", "--space=lorra-4"], "space 'lorra-4' is unknown: default, paper, lora-<r>"),
        (["report", "nowhere"], r"nowhere is no run folder: it has no config\.yaml; make one with glora run"),
        (["search", "nowhere"], r"nowhere is no run folder: it has no config\.yaml; make one with glora run"),
    ],
)
def test_words_that_are_not_understood(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(call(*words), message)
    assert not names_in(tmp_path)


def test_the_help_that_an_error_points_to_exists() -> None:
    done = call("run", "--data=x", "--model=y", "--eppochs=3")
    (shown,) = re.findall(r"\(see (glora.*)\)$", done.err.strip())
    assert shown == "glora run --help"


def test_a_missing_flag_is_called_as_it_is_typed() -> None:
    refused(call("run", "--model=y"), r"--data\b")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: [", r"(?i)config"),
        ("data: x\nmodel: y\ncolour: red\n", "'colour'"),
        ("data: x\nmodel: y\nepochs: many\n", "--epochs: expected a value of type int, not many"),
    ],
)
def test_a_yaml_file_that_will_not_do(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text)
    refused(call("run", "--config", tmp_path / "c.yaml"), message)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, not 0"),
        ({"lr": -1}, "lr must not be negative, but is -1.0"),
        ({"budget": "lots"}, "budget 'lots' is no number of parameters: write 300000, 300k or 0.3M"),
        ({"seed": -1}, "seed is 0 or more, not -1"),
        ({"val_fraction": 0.9}, "val_fraction 0.9 and test_fraction 0.2: the first is above 0"),
        ({"drop_path": 1}, "drop_path must be at least 0 and below 1"),
        ({"layers": "block.*"}, r"layers='block\.\*' matches no layer that can be adapted; near misses: blocks\."),
        ({"space": "lora-4", "budget": 100}, r"100 adapter parameters or fewer: feasible budgets are 21,504 to 21,504"),
        ({"space": "{Q: vector}"}, "a search space has no entry 'Q': it has rank, A to E and layers"),
        ({"precision": "fp16"}, "fp16 needs a GPU: use precision=bf16 or fp32 on a CPU"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, object], message: str, tmp_path: Path) -> None:
    if settings.get("precision") == "fp16" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    refused(call(*run_words(tmp_path / "run", **settings)), message)
    assert "supernet.safetensors" not in names_in(tmp_path)


@pytest.mark.parametrize(
    "settings", [{"population": 4, "parents": 5}, {"generations": -1}, {"parents": 0}, {"mutation": 2}]
)
def test_settings_of_the_search_that_cannot_be_are_refused_before_anything_is_trained(
    settings: dict[str, object], tmp_path: Path
) -> None:
    done = call(*run_words(tmp_path / "run", **settings))
    assert "supernet" not in done.err
    refused(done, "population|generations|parents|mutation|probability")
    assert not (tmp_path / "run" / "supernet.safetensors").exists()


def test_after_a_refusal_the_mended_command_works_in_the_same_folder(tmp_path: Path) -> None:
    refused(call(*run_words(tmp_path / "run", lr=1e18)), r"the loss of epoch \d+ is nan: lower lr")
    succeed(*run_words(tmp_path / "run"))


def test_after_a_refused_search_anew_the_mended_command_works(tmp_path: Path) -> None:
    settings = timm_settings(**FAST) | {"space": "{A: [vector, scalar]}", "budget": 2000}
    succeed("train", *flags(settings), "--out", tmp_path / "run")
    words = ["search", tmp_path / "run", "--out", tmp_path / "new"]
    refused(call(*words, "--budget=20"), r"20 adapter parameters or fewer: feasible budgets are 24 to \d")
    succeed(*words, "--budget=2k")


# The backbone


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("vit_smal_patch16_224", "unknown backbone 'vit_smal_patch16_224': did you mean vit_small_patch16_224"),
        ("google/vit-base", "unknown backbone 'google/vit-base': for a hub repository say hf-hub:google/vit-base"),
        ("hf:nowhere", "hf:nowhere is neither a local folder nor a hub repository OWNER/NAME"),
        (
            "vit_small_patch16_224",
            r"no weights for vit_small_patch16_224: tried the hub repository timm/\S+ \(.*give a local file with "
            r"--checkpoint FILE, or use offline/dinov2-small",
        ),
        ("hf:google/vit", r"no weights for hf:google/vit: tried the hub repository google/vit .*--checkpoint FILE"),
    ],
)
def test_a_backbone_that_cannot_be_had(model: str, message: str, tmp_path: Path) -> None:
    settings = timm_settings(**FAST, model=model)
    del settings["checkpoint"]
    refused(call("run", *flags(settings), "--out", tmp_path / "run"), message)
    assert not (tmp_path / "run").exists()


def test_info_on_a_model_that_is_none() -> None:
    refused(call("info", "vit_smal_patch16_224"), "unknown backbone .*: did you mean vit_small_patch16_224")


@pytest.mark.parametrize("path", ["runs/pets/adapter.safetensors", "./pets", "/nowhere/pets", "pets.safetensors"])
def test_info_on_a_path_that_is_not_there(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused(call("info", path), f"{re.escape(path)}.*(no such|is neither)")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.safetensors", r"no such checkpoint file: .*nowhere\.safetensors"),
        ("text.safetensors", r"text\.safetensors cannot be read as weights"),
        ("text.txt", r"text\.txt is of an unknown kind: known are \.safetensors, \.pth, \.pt, \.bin, \.npz"),
        ("other.safetensors", r"other\.safetensors does not fit VisionTransformer: missing cls_token"),
    ],
)
def test_a_checkpoint_that_will_not_do(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "text.safetensors").write_text("no weights")
    (tmp_path / "text.txt").write_text("no weights")
    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors")
    refused(call(*run_words(tmp_path / "run", checkpoint=tmp_path / name)), message)


def test_a_transformers_model_with_a_setting_that_it_does_not_have(tmp_path: Path) -> None:
    for change, message in (
        ({"drop_path": 0.1}, "has no stochastic depth: leave drop_path at 0"),
        ({"size": 32}, "does not take images of 32 pixels: .*; use 16"),
        ({"checkpoint": "x.safetensors"}, r"brings its own weights: leave out the checkpoint x\.safetensors"),
    ):
        refused(call("run", *flags(hf_settings(**FAST) | change), "--out", tmp_path / "run"), message)


# Images


def spoil(data: Path, fault: str) -> str:
    """Put a bad file among the red ones; how a message names it."""
    folder = data / "train" / "red" if (data / "train").is_dir() else data / "red"
    if fault == "text":
        (folder / "a note.jpg").write_text("no image")
        return r"red/a note\.jpg: is no image that can be read \(JPEG, PNG, .*--skip-bad"
    if fault == "truncated":
        cut_short(folder / "cut.jpg")
        return r"red/cut\.jpg: is damaged or cut short .*--skip-bad"
    if fault == "bomb":
        bomb(folder / "bomb.png", 25_000, 20_000)
        return r"red/bomb\.png: 500 megapixels \(limit 179\): make the image smaller.*--skip-bad"
    assert fault == "empty"
    (folder / "empty.png").touch()
    return r"red/empty\.png: is an empty file \(0 bytes\).*--skip-bad"


FAULTS = ["text", "truncated", "bomb", "empty"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_image_is_named_and_can_be_skipped(fault: str, tmp_path: Path) -> None:
    data = paint_split(tmp_path / "data")
    message = spoil(data, fault)
    words = run_words(tmp_path / "run", data=data)
    refused(call(*words), message)
    assert not (tmp_path / "run").exists()
    done = succeed(*words, "--skip-bad")
    assert done.err.startswith(f"data: 1 bad files skipped, the first is {data / 'train' / 'red'}/")
    found = json.loads((tmp_path / "run" / "metrics.json").read_text("utf-8"))["data"]
    assert (found["skipped"], found["train"]) == (1, 36)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("command", ["eval", "predict"])
def test_a_bad_image_is_named_by_eval_and_predict_too(command: str, fault: str, tmp_path: Path) -> None:
    data = paint(tmp_path / "data", {"red": 3, "blue": 3})
    message = spoil(data, fault)
    words = [f"--data={data}"] if command == "eval" else [str(data)]
    done = call(command, finished() / "merged.safetensors", *words)
    refused(done, message)
    assert call(command, finished() / "merged.safetensors", *words, "--skip-bad").code == 0


@pytest.mark.parametrize("fault", FAULTS)
def test_a_single_bad_image_to_predict_is_named(fault: str, tmp_path: Path) -> None:
    data = paint(tmp_path / "data", {"red": 1})
    message = spoil(data, fault).removesuffix(".*--skip-bad")
    (bad,) = [path for path in (data / "red").iterdir() if path.name != "00.png"]
    refused(call("predict", finished() / "merged.safetensors", bad), message)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda data: None, r"data: no such folder$"),
        (lambda data: data.mkdir(), r"data: holds no class folders: sort the images into .*data/<class>/$"),
        (lambda data: data.write_text("x"), r"data: is no folder$"),
        (lambda data: paint(data, {"red": 5}), r"data: has one class only \('red'\): two or more are needed$"),
        (
            lambda data: paint(data, {"red": 5, "blue": 1}),
            r"class 'blue' has one image \(.*blue/00\.png\): a split needs",
        ),
        (lambda data: (paint(data, {"red": 5}), (data / "blue").mkdir()), r"data/blue: holds no images: add some"),
        (lambda data: paint_split(data, ("val", "test")), r"data: has .* but no folder train$"),
    ],
)
def test_a_folder_of_images_that_will_not_do(make: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    make(tmp_path / "data")
    refused(call(*run_words(tmp_path / "run", data=tmp_path / "data")), message)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda data: None, r"data: no such folder$"),
        (lambda data: data.mkdir(), r"data: holds no class folders: sort the images into .*data/<class>/$"),
        (
            lambda data: paint(data, {"red": 1, "violet": 1}),
            r"knows no class 'violet': its classes are blue, green, red$",
        ),
        (lambda data: paint_split(data, ("train", "val")), r"has no test images: give --split train, val or all"),
    ],
)
def test_images_that_cannot_be_evaluated_on(make: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    make(tmp_path / "data")
    refused(call("eval", finished() / "merged.safetensors", "--data", tmp_path / "data"), message)


def test_every_part_of_the_advice_on_splits_can_be_followed(tmp_path: Path) -> None:
    data = paint_split(tmp_path / "data", ("train", "val"))
    for split in ("train", "val", "all"):
        succeed("eval", finished() / "merged.safetensors", "--data", data, "--split", split)


@pytest.mark.parametrize("name", ["nowhere.png", "empty"])
def test_nothing_to_predict(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    message = {"nowhere.png": r"nowhere\.png: no such file or folder$", "empty": r"empty: holds no images$"}[name]
    refused(call("predict", finished() / "merged.safetensors", tmp_path / name), message)


# Files and folders


@pytest.mark.parametrize("command", ["predict", "eval"])
def test_a_file_that_is_not_ours(command: str, tmp_path: Path) -> None:
    save_file({"x": torch.zeros(2)}, tmp_path / "x.safetensors")
    (tmp_path / "y.safetensors").write_text("no file of ours")
    words = [pictures()] if command == "predict" else ["--data", pictures()]
    for name, message in (
        ("x", r"x\.safetensors was not written by glora"),
        ("y", r"y\.safetensors is damaged or no safetensors file"),
        ("z", r"z\.safetensors: no such file"),
    ):
        refused(call(command, tmp_path / f"{name}.safetensors", *words), message)
        refused(call("merge", tmp_path / f"{name}.safetensors"), message)
    refused(
        call(command, finished() / "supernet.safetensors", *words),
        r"is a file of kind 'supernet': give an adapter, a merged file or a run folder",
    )
    refused(call("merge", finished() / "merged.safetensors"), r"is a file of kind 'merged', and one of kind 'adapter'")


def test_an_adapter_on_other_weights(tmp_path: Path) -> None:
    other = write_weights(tmp_path / "other.safetensors", seed=1)
    message = r"adapter\.safetensors was trained on another backbone \(test_vit\), which differs in layer 'blocks\."
    for words in (["predict", finished(), pictures()], ["merge", finished()], ["eval", finished()]):
        refused(call(*words, "--checkpoint", other), message)


@pytest.mark.parametrize("command", ["predict", "eval", "merge", "info"])
def test_a_folder_that_is_no_run_says_so(command: str, tmp_path: Path) -> None:
    words = {"predict": [pictures()], "eval": [f"--data={pictures()}"]}.get(command, [])
    refused(call(command, tmp_path, *words), "is no run folder|has no adapter.safetensors: glora search")


@pytest.mark.parametrize("command", ["predict", "eval", "merge", "info"])
def test_a_run_without_an_adapter_says_what_makes_one(command: str, tmp_path: Path) -> None:
    folder = copy_of(finished(), tmp_path)
    (folder / "adapter.safetensors").unlink()
    words = [pictures()] if command == "predict" else []
    refused(call(command, folder, *words), rf"has no adapter\.safetensors yet: glora search {folder} makes it")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", r"config\.yaml is no readable YAML"),
        ("data: x\nmodel: y\ncolour: red\n", r"config\.yaml: .*'colour'"),
    ],
)
def test_a_run_folder_whose_settings_are_damaged(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text)
    for command in ("search", "report", "eval"):
        refused(call(command, tmp_path), message)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("metrics.json", r"metrics\.json is .*JSON.*: delete it"),
        ("supernet.safetensors", r"supernet\.safetensors is damaged or no safetensors file"),
        ("search.jsonl", r"search\.jsonl, line 1: not the header of a search history; delete the file"),
        ("adapter.safetensors", r"adapter\.safetensors is damaged or no safetensors file"),
    ],
)
def test_a_run_with_a_damaged_file_names_it(name: str, message: str, tmp_path: Path) -> None:
    settings = timm_settings(finetune_epochs=2)
    folder = copy_of(finished(), tmp_path)
    (folder / name).write_text("damaged\n")
    done = call("run", *flags(settings), "--out", folder)
    assert done.code == 2
    assert re.search(f"^glora: .*{message}", done.err.splitlines()[-1])


def test_a_run_folder_with_other_settings_or_other_data(tmp_path: Path) -> None:
    data = paint(tmp_path / "data")
    succeed(*run_words(tmp_path / "run", data=data))
    refused(
        call(*run_words(tmp_path / "run", data=data, lr=0.5)),
        r"holds a run with lr=0\.01, now it is 0\.5: give the same settings to go on with it, or another --out",
    )
    (data / "red" / "00.png").unlink()
    refused(
        call(*run_words(tmp_path / "run", data=data)),
        r"holds a run on other images of .*data \(some were .*\): put them back, or start anew with another --out$",
    )


def test_a_search_anew_needs_a_trained_supernet(tmp_path: Path) -> None:
    folder = copy_of(finished(), tmp_path)
    (folder / "supernet.safetensors").unlink()
    message = rf"finished has no trained supernet yet: glora search {folder} without --out trains it"
    refused(call("search", folder, "--out", tmp_path / "new", "--budget=1k"), message)
    assert not (tmp_path / "new").exists()


def test_a_search_anew_in_a_folder_with_another_search(tmp_path: Path) -> None:
    folder = copy_of(finished(), tmp_path)
    for out in (folder, tmp_path / "new"):
        done = call("search", folder, "--out", out, "--budget=1k", "--finetune-epochs=0")
        assert done.code == (2 if out == folder else 0)
    refused(call("search", folder, "--out", tmp_path / "new", "--budget=2k", "--finetune-epochs=0"), "budget=1000, now")


def test_a_run_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    refused(call(*run_words(tmp_path / "run")), f"{tmp_path / 'run'}.*(is a file|is no folder)")


def test_a_merged_file_that_is_a_folder(tmp_path: Path) -> None:
    refused(call("merge", finished(), "--out", tmp_path), re.escape(str(tmp_path)))


@pytest.mark.parametrize("size", ["0", "-1"])
def test_a_batch_of_nothing(size: str) -> None:
    words = ["eval", finished() / "merged.safetensors", "--data", pictures(), "--batch-size", size]
    refused(call(*words), "(?i)batch.size.* 1 or more")


# Interrupts, and what is our fault


def heed_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_says_how_to_go_on(tmp_path: Path, environment: dict[str, str]) -> None:
    words = [Path(sys.executable).with_name("glora"), *run_words(tmp_path / "run", epochs=10_000)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # A shell lets what it starts in the background ignore the signal, and so would these tests and their children.
    process = subprocess.Popen(words, env=environment, preexec_fn=heed_ctrl_c, **pipes)
    until = time.monotonic() + 120
    while not (tmp_path / "run" / "train.jsonl").is_file() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    try:
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert out == ""
    assert err.splitlines()[-1] == "glora: stopped; the same command goes on from here"
    assert "Traceback" not in err
    assert not [name for name in names_in(tmp_path) if name.endswith(".tmp")]


def test_after_ctrl_c_the_same_command_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = run_words(tmp_path / "run", finetune_epochs=1)
    for stage in ("train_supernet", "search"):
        with monkeypatch.context() as patch:
            patch.setattr(f"glora.run.{stage}", interrupted)
            done = call(*words)
        assert done.code == 130
        assert done.err.splitlines()[-1] == "glora: stopped; the same command goes on from here"
    succeed(*words)
    assert (tmp_path / "run" / "merged.safetensors").is_file()


def interrupted(*args: object, **kwargs: object) -> None:
    raise KeyboardInterrupt


def test_ctrl_c_while_the_program_is_still_starting(environment: dict[str, str]) -> None:
    program = """
import sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupt())
from glora.cli import main
sys.exit(main())
"""
    done = spawn(environment, "report", "nowhere", program=program)
    assert (done.code, done.out) == (130, "")
    assert "Traceback" not in done.err


def test_what_is_our_fault_is_said_with_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> None:
        raise RuntimeError("a bug of ours")

    monkeypatch.setattr(commands, "open_classifier", broken)
    done = call("predict", finished(), pictures())
    assert (done.code, done.out) == (1, "")
    first, *_, error, last = done.err.splitlines()
    assert first == "Traceback (most recent call last):"
    assert error == "RuntimeError: a bug of ours"
    assert last == "glora: this is our fault; please report the lines above"


def test_a_reader_that_stops_reading_is_no_error(environment: dict[str, str]) -> None:
    words = [Path(sys.executable).with_name("glora"), "predict", finished() / "merged.safetensors", pictures()]
    process = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    with process.stderr:
        assert process.stderr.read() == ""
    assert process.wait(60) == 0
