"""Curves: loss and accuracy of all runs during training, on the same axes."""

from __future__ import annotations

from dataclasses import dataclass

import plotly.graph_objects as go

from experiments.comparison.differences import Comparison
from experiments.pages.blocks import Figure, Missing, Section
from experiments.pages.plots import PALETTE, add_line, canvas
from experiments.pages.text import CitedText, percent
from experiments.reading.study import SPLITS, TrainedRun


@dataclass(frozen=True, slots=True)
class RunCurve:
    """A curve of one run.

    Attributes:
        group: name of its group.
        split: "train", "val" or "test".
        strong: of the first run of its group.
        points: (optimiser step, value), by step.
    """

    run: TrainedRun
    group: str
    colour: str
    split: str
    strong: bool
    points: tuple[tuple[int, float], ...]


def run_curves(comparison: Comparison, metric: str) -> list[RunCurve]:
    """The training curve of each run, and the one on its held-out images: on the split it was evaluated on most often.

    Args:
        metric: "loss" or "accuracy".
    """
    found = []
    for group, colour in zip(comparison.groups, PALETTE, strict=False):
        for r in group.runs:
            held_out = max(("val", "test"), key=lambda split: len(r.curves.get(f"{split}/{metric}", ())))
            for split in (held_out, "train"):
                if points := r.curves.get(f"{split}/{metric}"):
                    found.append(RunCurve(r, group.name, colour, split, r is group.runs[0], points))
    return found


def section(comparison: Comparison) -> Section:
    figures = [
        Figure(f"{metric}_curves", metric.capitalize(), caption(comparison, metric), draw_curves(comparison, metric))
        for metric in ("loss", "accuracy")
        if run_curves(comparison, metric)
    ]
    return Section("Curves", tuple(figures) or (Missing("There are no curves to show yet."),))


def draw_curves(comparison: Comparison, metric: str) -> go.Figure:
    """Curves of "loss" or "accuracy": held-out images solid, training batches dotted, further runs of a group faint."""
    figure = canvas(height=340)
    factor, unit = (100.0, "%") if metric == "accuracy" else (1.0, "nats an image")
    by_epoch = all(r.steps_an_epoch for group in comparison.groups for r in group.runs if r.curves)
    axis, tick = ("epoch", "epoch") if by_epoch else ("optimiser step", "step")
    for curve in run_curves(comparison, metric):
        held_out, scale = curve.split != "train", curve.run.steps_an_epoch if by_epoch else None
        add_line(
            figure,
            [round(step / (scale or 1), 4) for step, _ in curve.points],
            [round(factor * value, 5) for _, value in curve.points],
            name=curve.group,
            colour=curve.colour,
            width=2 if held_out and curve.strong else 1.2,
            dash="solid" if held_out else "dot",
            hover=f"{curve.group}, {SPLITS[curve.split]}, run {curve.run.run_id[:8]}<br>{tick} %{{x:.4g}}: %{{y:.4g}}",
            opacity=1 if curve.strong else 0.45,
            legendgroup=curve.group,
            showlegend=held_out and all(not trace.showlegend or trace.name != curve.group for trace in figure.data),
        )
    figure.update_xaxes(title=axis, rangemode="tozero")
    return figure.update_yaxes(title=f"{metric} ({unit})", rangemode="tozero" if metric == "loss" else "normal")


def caption(comparison: Comparison, metric: str) -> CitedText:
    """The meaning of the lines, and the group that ends best; groups on different images are not ranked."""
    drawn = [curve for curve in run_curves(comparison, metric) if curve.split != "train"]
    splits = sorted({curve.split for curve in drawn}, reverse=True)
    text = f"Solid: {' or '.join(SPLITS[split] for split in splits)} images; dotted" if drawn else "Dotted"
    text += ": training batches"
    if any(len(group.runs) > 1 for group in comparison.groups):
        text += "; strong: the first run of a group; faint: its other runs"
    ends = {curve.group: curve.points[-1][1] for curve in drawn if curve.strong}
    if len(splits) == 1 and len(ends) > 1:
        best = (max if metric == "accuracy" else min)(ends, key=ends.__getitem__)
        value = percent(ends[best]) if metric == "accuracy" else f"{ends[best]:.3f} nats"
        text += f". {best} ends {'highest' if metric == 'accuracy' else 'lowest'}, at {value}"
    elif len(splits) > 1:
        text += ". Groups that were evaluated on different images cannot be compared by these curves"
    return CitedText(f"{text}.", comparison.sources)
