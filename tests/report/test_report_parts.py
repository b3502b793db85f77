from __future__ import annotations

import itertools
import math
import re

import pytest

from glora.report import words
from glora.report.chart import Axis, Chart
from glora.report.forms import block_of


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.82, "0.8 s"), (9.99, "10.0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (750, "12 min 30 s"), 
     (3840, "1 h 04 min"), (3599.7, "1 h 00 min"), (None, words.MISSING), (math.nan, words.MISSING)],
)  # fmt: skip
def test_duration(seconds, text):
    assert words.duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(3.1e-6, "3.1e-6"), (0.0, "0"), (1234567.0, "1.23e+6"), (math.inf, "not finite"), (None, words.MISSING)],
)
def test_number(value, text):
    assert words.number(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(5e-4, "5e-4"), (2.5e-4, "2.5e-4"), (0.0, "0"), (1e-10, "1e-10"), (0.1, "0.1")]
)
def test_tiny(value, text):
    assert words.tiny(value) == text


def test_standard_error():
    assert words.standard_error(0.9, 100) == pytest.approx(0.03)
    assert words.standard_error(0.9, None) is None
    assert words.standard_error(math.nan, 100) is None


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("blocks.0.attn.qkv", "blocks.0"),
        ("layers.1.blocks.3.mlp.fc1", "layers.1.blocks.3"),
        ("layer1.0.conv1", "layer1.0"),
        ("encoder.layers.encoder_layer_3.mlp.0", "encoder.layers.encoder_layer_3"),
        ("fc", ""),
        ("norm.proj", ""),
    ],
)
def test_block_of(name, block):
    assert block_of(name) == block


@pytest.mark.parametrize("ends", [(0.0, 1.0), (0.8321, 0.9402), (-3.0, 7e6), (1e-9, 3e-9), (99.9, 100.1)])
@pytest.mark.parametrize("most", [3, 6, 10])
def test_ticks_are_few_round_and_inside(ends, most):
    axis = Axis("x", *ends)
    places = [place for place, _ in axis.ticks(most)]
    assert 2 <= len(places) <= most + 1
    assert all(ends[0] - 1e-12 <= place <= ends[1] * (1 + 1e-9) for place in places)
    steps = {round(b - a, 14) for a, b in itertools.pairwise(places)}
    assert max(steps) == pytest.approx(min(steps))


def test_logarithmic_ticks():
    axis = Axis.fit("x", [300.0, 2e6], words.short, log=True)
    texts = [text for _, text in axis.ticks(7)]
    assert texts == ["1k", "10k", "100k", "1M"]
    assert axis.share(300.0) == pytest.approx(1 - axis.share(2e6))


@pytest.mark.parametrize("values", [[], [math.nan], [0.0, 0.0], [5.0], [-1.0, math.inf]])
def test_axis_of_odd_values_has_a_span(values):
    axis = Axis.fit("x", values)
    assert axis.low < axis.high
    assert axis.ticks(5)


def test_line_breaks_where_it_is_not_finite():
    chart = Chart(Axis("x", 0, 4), Axis("y", 0, 1))
    chart.line([(0, 0.1), (1, math.nan), (2, 0.2), (3, 0.3)], "best")
    path = re.search(r'class="line best" d="([^"]*)"', chart.svg("a line"))
    assert re.sub(r"[^ML]", "", path[1]) == "MML"


def test_labels_are_escaped():
    chart = Chart(Axis("<x>", 0, 1), Axis("y", 0, 1))
    chart.mark((0.5, 0.5), "best", '<script>"')
    svg = chart.svg('"><script>')
    assert "<script" not in svg
    assert "&lt;x&gt;" in svg
