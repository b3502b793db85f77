"""The pages in a real browser: nothing is loaded or complained of, all data is drawn, nothing runs over the edge."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser, find_chromium
from PIL import Image
from sample_bench import bench_lines, line
from sample_run import write_lines

from glora.data.vtab import VTAB
from glora.report import write_bench_report, write_report

pytestmark = pytest.mark.slow

# Elements that end beyond the window, and texts that end beyond their drawing; what scrolls by itself may.
BEYOND = """[...document.querySelectorAll('body *')].filter(element => {
  if (element.closest('.scroll, pre, .hidden, details:not([open]) > :not(summary)')) return false;
  const box = element.getBoundingClientRect();
  if (!box.width || !box.height) return false;
  if (box.right > document.documentElement.clientWidth + 1 || box.left < -1) return true;
  if (element.tagName !== 'text') return false;
  const sheet = element.ownerSVGElement.getBoundingClientRect();
  return box.right > sheet.right + 1 || box.left < sheet.left - 1 || box.bottom > sheet.bottom + 1;
}).map(element => element.outerHTML.slice(0, 120))"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = find_chromium()
    if program is None:
        pytest.skip("no chromium on PATH: the pages are not looked at in a browser")
    started = Browser(program, tmp_path_factory.mktemp("profile"))
    yield started
    started.close()


@pytest.fixture(scope="module")
def pages(sample: Path, bench: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    return {
        "run": write_report(sample, folder / "run.html"),
        "bench": write_bench_report(bench, folder / "bench.html"),
    }


def marks(browser: Browser, selector: str) -> int:
    return browser.ask(f"document.querySelectorAll({json.dumps(selector)}).length")


@pytest.mark.parametrize("width", [360, 768, 1280])
@pytest.mark.parametrize("name", ["run", "bench"])
def test_page_is_quiet_and_stays_inside(browser: Browser, pages: dict[str, Path], name: str, width: int) -> None:
    browser.open(pages[name], width)
    assert browser.complaints() == []
    assert browser.ask("document.documentElement.scrollWidth") <= width
    assert browser.ask(BEYOND) == []
    assert marks(browser, "figure .drawing svg") > 0


# Of the headers of rows: whether they stand at the left edge of their box, and whether nothing lies over them.
STUCK = """[...document.querySelectorAll('#results tbody th')].map(head => {
  const box = head.getBoundingClientRect(), left = head.closest('.scroll').getBoundingClientRect().left;
  head.scrollIntoView({block: 'center'});
  const now = head.getBoundingClientRect();
  const there = document.elementFromPoint(now.left + now.width / 2, now.top + now.height / 2);
  return [Math.abs(box.left - left) < 1, there === head];
})"""


@pytest.mark.parametrize("width", [360, 1280])
def test_a_table_of_nineteen_tasks_scrolls_in_a_box_of_its_own(browser: Browser, tmp_path: Path, width: int) -> None:
    methods = ("linear", "adaptformer", "glora")
    about = {name: {"group": task.group.lower(), "protocol": "vtab"} for name, task in VTAB.items()}
    write_lines(tmp_path / "results.jsonl", [line(task, m, 0, **about[task]) for task in about for m in methods])
    browser.open(write_bench_report(tmp_path), width)
    assert browser.ask("document.documentElement.scrollWidth") <= width
    assert browser.ask(BEYOND) == []
    box = "document.querySelector('#results .scroll')"
    hidden = browser.ask(f"{box}.scrollWidth - {box}.clientWidth")
    assert hidden > 500
    browser.ask(f"{box}.scrollLeft = {hidden}")
    assert browser.ask(f"{box}.scrollLeft") == pytest.approx(hidden, abs=1)
    last = browser.ask("document.querySelector('#results tbody td:last-child').getBoundingClientRect().right")
    assert last <= browser.ask(f"{box}.getBoundingClientRect().right") + 1
    assert browser.ask(STUCK) == [[True, True]] * len(methods)


@pytest.mark.parametrize(
    ("head", "complaint"),
    [
        ("<script>console.error('no')</script>", "console"),
        ("<img src='http://localhost:9/picture.png'>", "request"),
        ("<script>nothing.there</script>", "exception"),
    ],
)
def test_complaints_are_heard(browser: Browser, tmp_path: Path, head: str, complaint: str) -> None:
    """What the quietness of the pages rests on."""
    (tmp_path / "page.html").write_text(f"<!DOCTYPE html><title>x</title><body>{head}</body>")
    browser.open(tmp_path / "page.html", 800)
    assert any(found.startswith(complaint) for found in browser.complaints())


def test_what_runs_over_the_edge_is_found(browser: Browser, tmp_path: Path) -> None:
    text = "<!DOCTYPE html><title>x</title><body><p style='width:900px'>x</p></body>"
    (tmp_path / "page.html").write_text(text)
    browser.open(tmp_path / "page.html", 800)
    assert len(browser.ask(BEYOND)) == 1


@pytest.mark.parametrize(("scheme", "paper"), [("light", (253, 252, 250)), ("dark", (20, 23, 27))])
@pytest.mark.parametrize("name", ["run", "bench"])
def test_page_draws(browser: Browser, pages: dict[str, Path], tmp_path: Path, name: str, scheme: str, paper) -> None:
    browser.open(pages[name], 1200, scheme=scheme)
    browser.shot(tmp_path / "shot.png")
    with Image.open(tmp_path / "shot.png") as image:
        picture = image.convert("RGB")
    assert picture.width == 1200
    assert picture.getpixel((2, 2)) == paper
    assert len(picture.getcolors(maxcolors=1 << 22)) > 200


def test_figures_of_a_run_have_all_data(browser: Browser, pages: dict[str, Path], sample: Path) -> None:
    browser.open(pages["run"], 1280)
    structure = json.loads((sample / "structure.json").read_text())
    forms = [form for layer in structure["best"]["structure"].values() for form in layer.values()]
    assert marks(browser, "#layer-sizes .bar") == len(forms) + 5  # and the legend
    candidates = (sample / "search.jsonl").read_text().splitlines()[1:]
    scored = sum(json.loads(line)["accuracy"] is not None or "bound" in json.loads(line) for line in candidates)
    dots = "[...document.querySelectorAll('#search-front .dots')].map(d => d.getAttribute('d')).join('').split('h0')"
    assert browser.ask(f"{dots}.length - 1") == scored
    assert marks(browser, "#search-front .drawing .mark.front") == len(structure["front"])
    for key in ("train-probes", "train-loss", "train-lr", "search-progress"):
        assert browser.ask(f"document.querySelector('#{key} .drawing .line').getBBox().width") > 300


def test_figures_of_a_bench_have_all_data(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["bench"], 1280)
    lines = [line for line in bench_lines() if "error" not in line]
    vtab = {(line["method"], line["rank"]) for line in lines if line["protocol"] == "vtab"}
    for key in ("mean", 0, 1, 2, 3, 4, 5):
        assert marks(browser, f"#cost-0-{key} .symbol") == len(vtab)
        assert marks(browser, f"#cost-0-{key} .whisker") == len(vtab)
    domain = [line for line in lines if line["protocol"] == "domain"]
    for test in range(5):
        assert marks(browser, f"#cost-1-{test} .symbol") == len({line["method"] for line in domain})
    for key in ("mean", 0, 1):
        assert marks(browser, f"#shots-{key} .symbol") == 3 * 5  # methods, numbers of shots
        assert marks(browser, f"#shots-{key} .band") == 3
    assert marks(browser, "#between-0 .drawing .symbol") == 5 * 11  # tests, alphas
    found = [line["structure"] for line in lines if line["structure"]]
    used = {(layer, tensor) for structure in found for layer, forms in structure.items() for tensor in forms}
    assert marks(browser, "#layer-shares-0 .drawing .bar") == len(used)
    assert marks(browser, "#tensor-shares-0 .drawing .bar") == 6 * 5
    for group in range(3):
        assert marks(browser, f"#form-choices-0-{group} .drawing .bar") == 4 + 4 + 2 + 3 + 3
    assert marks(browser, "#structures tbody td[class^=form-]") == 6 * 5 * 48
    assert marks(browser, "#failures tbody tr") == 2


def test_a_method_can_be_hidden_and_shown(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["bench"], 1280)
    count = "[...document.querySelectorAll('{}')].filter(symbol => symbol.checkVisibility()).length"
    shown, elsewhere = count.format("#cost-0-mean .symbol, #cost-0-3 .symbol"), count.format("#shots-0 .symbol")
    before = browser.ask(shown)
    browser.ask("document.querySelector('#costs .show-9').click()")
    assert browser.ask(shown) == before - 2
    assert browser.ask(elsewhere) == 15
    browser.ask("document.querySelector('#costs .show-9').click()")
    assert browser.ask(shown) == before
