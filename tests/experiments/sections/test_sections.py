"""Rules that every section of the report keeps."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from experiments.decision.facts import Facts
from experiments.pages.blocks import Figure
from experiments.report import SECTIONS

UNITS = {"accuracy": "(%)", "cost": "(US dollars)", "compute": "PFLOP", "loss": "nats"}


@pytest.mark.parametrize("name", SECTIONS)
def test_figures_have_titled_axes_clear_paper_and_plain_numbers(demo: Facts, name: str) -> None:
    for picture in SECTIONS[name](demo).pictures:
        if isinstance(picture, Figure):
            figure = json.loads(picture.figure.to_json())
            layout = figure["layout"]
            axes = [layout[axis] for axis in ("xaxis", "yaxis") if layout[axis].get("visible", True)]
            titles = [title for axis in axes if (title := axis.get("title", {}).get("text"))]
            assert titles
            assert all(unit in title for title in titles for word, unit in UNITS.items() if word in title)
            assert layout["paper_bgcolor"] == layout["plot_bgcolor"] == "rgba(0,0,0,0)"
            assert '"bdata"' not in json.dumps(figure)  # numbers, not packed arrays: report.json can be compared
            unnamed = [trace for trace in figure["data"] if not trace.get("name") and trace["type"] != "heatmap"]
            assert not unnamed or picture.name == "benchmarks"


@pytest.mark.parametrize("name", SECTIONS)
def test_sentences_and_numbers_have_sources(demo: Facts, unconfirmed: Facts, name: str) -> None:
    for facts in (demo, unconfirmed, replace(demo, test=None)):
        section = SECTIONS[name](facts)
        assert all(text.sources for texts in section.recommendation.values() for text in texts)
        assert all(number.sources for number in section.numbers if number.value is not None)
