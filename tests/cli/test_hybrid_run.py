"""A run whose space has prompts and adapters, from its flags to prediction."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

from glora.checkpoint import read_metadata
from small_run import (
    COLOURS,
    FAST,
    FILES,
    adapter_numbers,
    call,
    flags,
    home,
    names_in,
    pictures,
    read_json,
    same_tensors,
    succeed,
    timm_settings,
)

# Every block has an adapter, so that whatever is found is a hybrid.
SPACE = {"A": ["none"], "prompts": ["none", "tokens-2"], "adapters": ["bottleneck-1", "serial-1"]}


@cache
def hybrid() -> Path:
    """The folder of a finished run, and what it printed beside it."""
    settings = timm_settings(**FAST, space=json.dumps(SPACE)) | {"budget": 6000}
    done = succeed("run", *flags(settings), "--out", home() / "hybrid")
    (home() / "hybrid.txt").write_text(done.out + done.err)
    return home() / "hybrid"


def test_a_run_says_that_its_merged_file_is_no_plain_model() -> None:
    folder = hybrid()
    assert names_in(folder) >= FILES
    best = read_json(folder / "structure.json")["best"]
    assert adapter_numbers(folder / "adapter.safetensors") == best["size"] <= 6000
    blocks = [name for name, forms in best["structure"].items() if "adapter" in forms]
    assert blocks
    assert list(read_metadata(folder / "merged.safetensors").values["hybrids"]) == blocks
    said = " ".join((home() / "hybrid.txt").read_text().split())
    assert f"no plain model, as prompts or adapters stay in {', '.join(blocks)}" in said
    shown = succeed("info", folder / "merged.safetensors").out
    assert f"no plain model: prompts or adapters stay in {', '.join(blocks)}" in shown
    assert "timm.create_model" not in shown
    assert "stay in the model" in " ".join((folder / "report.html").read_text().split())


def test_merging_alone_asks_for_a_word(tmp_path: Path) -> None:
    done = call("merge", hybrid(), "--out", tmp_path / "merged.safetensors")
    assert done.code != 0
    assert re.search(r"blocks\.0.*: prompts and adapters cannot be merged into weights; with keep_hybrids", done.err)
    assert not (tmp_path / "merged.safetensors").exists()
    succeed("merge", hybrid(), "--keep-hybrids", "--out", tmp_path / "merged.safetensors")
    assert same_tensors(tmp_path / "merged.safetensors", hybrid() / "merged.safetensors")


def test_adapter_and_merged_file_predict_the_same() -> None:
    picture = pictures() / next(iter(COLOURS)) / "00.png"
    files = [hybrid() / name for name in ("adapter.safetensors", "merged.safetensors")]
    one, other = (json.loads(succeed("predict", path, picture, "--json").out) for path in files)
    assert json.dumps(one).replace("adapter", "merged") == json.dumps(other)


def test_info_shows_what_blocks_may_have() -> None:
    arguments = ("info", "vit_small_patch16_224", "--space", json.dumps(SPACE))
    found = json.loads(succeed(*arguments, "--json").out)
    assert [row["name"] for row in found["blocks"]] == [f"blocks.{n}" for n in range(12)]
    serial = 2 * (384 + 1 + 384 + 384)
    assert all(row["largest"] == 2 * 384 + serial for row in found["blocks"])
    shown = succeed(*arguments).out
    assert f"serial-1 {serial:,}" in shown
    assert "tokens-2 768" in shown
