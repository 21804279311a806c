"""Training curves of the report: loss, accuracy and learning rate by optimiser step."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
import plotly.graph_objects as go

from experiments.decision.facts import Facts
from experiments.pages.blocks import Block, Figure, Missing, Number, Section, SideBySide
from experiments.pages.plots import BLUE, GREEN, RUST, add_line, canvas
from experiments.pages.text import CitedText, fine_percent, points, run_sources
from sweeps.words import percent


def section(facts: Facts) -> Section:
    """Curves of all runs that the report is about. Captions and numbers are those of the first run."""
    curves = facts.study.curves
    first = curves[curves["run_id"].isin(facts.subject_runs[:1])]
    keys = set(curves["key"])
    blocks: list[Block] = []
    if pair := [
        Figure(name, key.capitalize(), _caption(facts, first, key), _lines(curves, key))
        for name, key in (("losses", "loss"), ("accuracies", "accuracy"))
        if keys & {f"train/{key}", f"val/{key}"}
    ]:
        blocks.append(SideBySide(tuple(pair)))
    if (first["key"] == "lr").any():
        blocks.append(_learning_rate(facts, first))
    if not blocks:
        blocks.append(Missing("There are no curves to show yet."))
    return Section(f"Training of the {facts.subject}", tuple(blocks), numbers=tuple(_numbers(facts, first)))


def peak_rate(facts: Facts, first: pd.DataFrame) -> tuple[float, float, float]:
    """The highest learning rate of a run, the share of its steps before it, and the last learning rate.

    A run without warm-up began with the rate of its recipe.
    """
    rates = first[first["key"] == "lr"]
    peak = rates.loc[rates["value"].idxmax()]
    last = float(rates["value"].iloc[-1])
    if peak["step"] == rates["step"].min() and not float(facts.parameter("warmup") or 0):
        return max(float(peak["value"]), float(facts.parameter("learning_rate") or 0)), 0.0, last
    return float(peak["value"]), float(peak["step"]) / max(float(rates["step"].max()), 1), last


def _caption(facts: Facts, first: pd.DataFrame, key: str) -> CitedText:
    """The last training and validation values of "loss" or "accuracy"."""
    curves = [first[first["key"] == f"{split}/{key}"]["value"] for split in ("train", "val")]
    text = f"One of the two {'losses' if key == 'loss' else 'accuracies'} was not recorded."
    if len(facts.study.final):
        text = "On training images alone: the final trains on all images, so that none are left to validate on."
    if all(map(len, curves)):
        train, val = (float(curve.iloc[-1]) for curve in curves)
        side = "above" if val >= train else "below"
        text = f"Validation accuracy ends at {fine_percent(val)}, {points(abs(val - train))} {side} training accuracy"
        if key == "loss":
            text = f"Training loss ends at {train:.3f} and validation loss at {val:.3f} nats an image"
        text += "."
    if len(facts.subject_runs) > 1:
        text += " The strong line is the first run."
    return CitedText(text, run_sources(*facts.subject_runs))


def _lines(curves: pd.DataFrame, key: str) -> go.Figure:
    """Training and validation by step: the first run strong, the others faint."""
    figure, factor = canvas(height=260), 1 if key == "loss" else 100
    _add(figure, curves, f"train/{key}", "training", BLUE, factor)
    _add(figure, curves, f"val/{key}", "validation", RUST, factor)
    figure.update_xaxes(title="optimiser step")
    unit, mode = ("loss (nats an image)", "tozero") if key == "loss" else ("accuracy (%)", "normal")
    figure.update_yaxes(title=unit, rangemode=mode)
    return figure


def _learning_rate(facts: Facts, first: pd.DataFrame) -> Figure:
    peak, share, last = peak_rate(facts, first)
    text = f"The rate peaks at {peak:.3g}, {percent(share, 0)} of the way, and ends at {last:.2g}."
    if not share:
        text = f"The rate falls from {peak:.3g} to {last:.2g}." if last < peak else f"The rate stays at {last:.3g}."
    figure = canvas(height=260)
    _add(figure, first, "lr", "learning rate", GREEN)
    figure.update_xaxes(title="optimiser step")
    figure.update_yaxes(title="learning rate", rangemode="tozero")
    return Figure("learning_rate", "Learning rate", CitedText(text, run_sources(*facts.subject_runs[:1])), figure)


def _add(figure: go.Figure, curves: pd.DataFrame, key: str, name: str, colour: str, factor: float = 1) -> None:
    some = curves[curves["key"] == key]
    for index, (run_id, values) in enumerate(some.groupby("run_id", sort=False)):
        add_line(
            figure,
            values["step"].astype(int),
            (factor * values["value"]).round(5),
            name=name,
            colour=colour,
            width=2 if index == 0 else 1.2,
            opacity=1 if index == 0 else 0.5,
            showlegend=index == 0,
            hover=f"{name}, run {str(run_id)[:8]}<br>step %{{x}}: %{{y:.4g}}",
        )


def _numbers(facts: Facts, first: pd.DataFrame) -> Iterator[Number]:
    sources = run_sources(*facts.subject_runs[:1])
    units = {"train/loss": "nats", "val/loss": "nats", "train/accuracy": "share", "val/accuracy": "share"}
    for key, unit in units.items():
        values = first[first["key"] == key]["value"]
        if len(values):
            yield Number(f"curve.{key.replace('/', '_')}.last", float(values.iloc[-1]), unit, sources)
    if (first["key"] == "lr").any():
        for name, value in zip(("peak", "peak_at", "last"), peak_rate(facts, first), strict=True):
            yield Number(f"curve.lr.{name}", value, "share of the steps" if name == "peak_at" else "rate", sources)
