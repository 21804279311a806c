"""Calibration of the report: predicted probabilities against the share of right predictions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch

from cifar_core.evaluation.metrics import Reliability, reliability
from experiments.decision.facts import Facts
from experiments.pages.blocks import Figure, Missing, Number, Section, numbers_of
from experiments.pages.plots import MUTED, RUST, add_line, add_points, canvas, pc
from experiments.pages.text import CitedText, capital, rough_percent, run_sources
from experiments.reading.study import Study
from experiments.stats import wilson
from sweeps.words import percent


@dataclass(frozen=True, slots=True)
class Calibration:
    """Calibration of the champion, over the test predictions of all its runs."""

    reliability: Reliability
    images: int  # test images of each run
    run_ids: tuple[str, ...]

    @property
    def overconfident(self) -> float:
        """Share of predictions in bins whose mean probability is above their accuracy."""
        over = sum(n for sure, right, n in _bins(self.reliability) if n and sure > right)
        return over / sum(self.reliability.counts)


def calibration_of(study: Study) -> Calibration | None:
    """The calibration of a study's champion, or None where it kept no predictions."""
    answers = study.artifacts.answers
    if not answers:
        return None
    probability = torch.from_numpy(np.concatenate([a.probability for a in answers.values()]))
    right = torch.from_numpy(np.concatenate([a.right for a in answers.values()]))
    return Calibration(reliability(probability, right), len(right) // len(answers), tuple(answers))


def section(facts: Facts) -> Section:
    """Reliability diagram and expected calibration error."""
    found = calibration_of(facts.study)
    if found is None:
        missing = (
            "How far its probabilities can be trusted cannot be said: no single predictions on the test set were kept."
        )
        return Section("Calibration", (Missing(missing),))
    figure = Figure("reliability", "Reliability diagram", caption(found), _diagram(found.reliability))
    smoothing = float(facts.parameter("label_smoothing") or 0)
    return Section("Calibration", (figure,), {"learning": (sentence(found, smoothing),)}, tuple(_numbers(found)))


def sentence(found: Calibration, smoothing: float = 0.0) -> CitedText:
    """Mean probability against accuracy, beyond chance or not, with cause and cure.

    Args:
        smoothing: label smoothing of the training.
    """
    sure, right = found.reliability.mean_confidence, found.reliability.mean_accuracy
    low, high = wilson(right, found.images)
    error = f"expected calibration error {percent(found.reliability.ece, 1)}"
    if low <= sure <= high:
        text = f"On average it is as sure ({percent(sure, 1)}) as it is right ({percent(right, 1)}); {error}."
    else:
        text = f"Its mean probability is {percent(sure, 1)}, but {percent(right, 1)} of its answers are right; {error}."
        if sure < right and smoothing:
            text += f" Its training smoothed labels by {smoothing:g}, which lowers probabilities."
        text += " Temperature scaling, fitted on other images, would correct this without changing a prediction."
    return CitedText(text, run_sources(*found.run_ids))


def caption(found: Calibration) -> CitedText:
    under = {0.0: "No bin is", 1.0: "All bins are"}.get(
        found.overconfident, f"{capital(rough_percent(found.overconfident))} of the test predictions are in bins"
    )
    text = f"{under} under the line, where fewer answers are right than the mean probability says. The expected "
    text += (
        f"calibration error, the mean distance from the line by predictions, is {percent(found.reliability.ece, 1)}."
    )
    return CitedText(text, run_sources(*found.run_ids))


def _diagram(bins: Reliability) -> go.Figure:
    """Share of right predictions by their mean probability, in bins; on the diagonal, the two agree."""
    figure = canvas(height=360)
    filled = [(pc(sure), pc(right), n) for sure, right, n in _bins(bins) if n]
    sure, right, counts = zip(*filled, strict=True)
    low = 5 * math.floor(min(*sure, *right) / 5)
    add_line(figure, [low, 100], [low, 100], name="perfectly calibrated", colour=MUTED, width=1, dash="dot")
    add_points(
        figure,
        sure,
        right,
        name="predictions, area by how many",
        colour=RUST,
        size=[round(6 + 20 * math.sqrt(n / max(counts)), 2) for n in counts],
        opacity=0.85,
        customdata=counts,
        cliponaxis=False,
        hover="sure %{x:.1f} %, right %{y:.1f} %<br>%{customdata:,} predictions",
    )
    square: dict[str, Any] = {"range": [low - 3, 103], "constrain": "domain"}
    figure.update_xaxes(title="mean probability of the predicted class (%)", **square)
    figure.update_yaxes(title="right (%)", scaleanchor="x", **square)
    return figure


def _numbers(found: Calibration) -> Iterator[Number]:
    sources, units = run_sources(*found.run_ids), {"ece": "share", "mean_confidence": "share", "mean_accuracy": "share"}
    yield from numbers_of("calibration", found.reliability, sources, **units)
    yield Number("calibration.surer_than_right", found.overconfident, "share", sources)
    for i, (sure, right, n) in enumerate(_bins(found.reliability)):
        yield Number(f"calibration.bin{i}.answers", n, "answers", sources)
        yield Number(f"calibration.bin{i}.confidence", sure, "share", sources)
        yield Number(f"calibration.bin{i}.accuracy", right, "share", sources)


def _bins(found: Reliability) -> Iterator[tuple[float, float, int]]:
    """(mean probability, accuracy, predictions) of each bin."""
    return zip(found.confidence, found.accuracy, found.counts, strict=True)
