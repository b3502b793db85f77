"""What goes wrong by the user's hand: exit code 2 and one line on stderr with what, where and what to do."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from refusals import refused, run_words
from safetensors.torch import save_file

from glora.cli import commands
from small_run import FAST, call, finished, flags, hf_settings, names_in, pictures, spawn, succeed, timm_settings

pytestmark = pytest.mark.usefixtures("_hub_offline")


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
        (["report", "nowhere"], r"nowhere: no such folder: give that of a run \(glora run\) or of a bench"),
        (["report", "."], r"\. has neither config\.yaml, as the folder of a run, nor results\.jsonl"),
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
