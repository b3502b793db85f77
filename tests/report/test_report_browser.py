"""The page in a real browser: it draws, in light and dark, and never scrolls sideways."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from glora.report import write_report

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def chromium() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    pytest.skip("no chromium on PATH: the page is not looked at in a browser")


def browse(chromium: str, page: Path, *flags: str) -> str:
    command = [
        chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={page.parent / 'profile'}", "--hide-scrollbars", *flags, page.as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.mark.parametrize(("scheme", "paper"), [("1", (253, 252, 250)), ("0", (20, 23, 27))], ids=["light", "dark"])
def test_page_draws(chromium, sample, tmp_path, scheme, paper):
    page = write_report(sample, tmp_path / "page.html")
    shot = tmp_path / "shot.png"
    flags = ("--window-size=1200,3000", f"--screenshot={shot}", f"--blink-settings=preferredColorScheme={scheme}")
    browse(chromium, page, *flags)
    with Image.open(shot) as image:
        picture = image.convert("RGB")
    assert picture.getpixel((2, 2)) == paper
    assert len(picture.getcolors(maxcolors=1 << 22)) > 200


@pytest.mark.parametrize("width", [360, 420, 768, 1280])
def test_page_never_scrolls_sideways(chromium, sample, tmp_path, width):
    text = write_report(sample, tmp_path / "page.html").read_text(encoding="utf-8")
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<iframe style="width:{width}px;height:900px;border:0" srcdoc="{html.escape(text)}" onload="'
        "document.title = 'wide ' + this.contentDocument.documentElement.scrollWidth\"></iframe>",
        encoding="utf-8",
    )
    dumped = browse(chromium, frame, "--window-size=1400,1000", "--dump-dom")
    assert int(re.search(r"<title>wide (\d+)</title>", dumped)[1]) <= width
