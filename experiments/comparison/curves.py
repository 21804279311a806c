"""Curves: loss and accuracy of all runs during training, on the same axes."""

from __future__ import annotations

import plotly.graph_objects as go

from experiments.comparison.differences import Comparison, Group
from experiments.pages.blocks import Figure, Missing, Section
from experiments.pages.plots import PALETTE, add_line, canvas, in_figure
from experiments.pages.text import CitedText, fine_percent
from experiments.reading.study import SPLITS, TrainedRun


def run_curves(comparison: Comparison, metric: str) -> list[tuple[Group, TrainedRun, str]]:
    """(group, run, split) of each training curve, and of one on held-out images: the split evaluated most often.

    What was evaluated once, as a final is on the test images, has no curve.

    Args:
        metric: "loss" or "accuracy".
    """
    found = []
    for group in comparison.groups:
        for r in group.runs:
            held_out = max(("val", "test"), key=lambda split: len(r.curves.get(f"{split}/{metric}", ())))
            found += [
                (group, r, split) for split in (held_out, "train") if len(r.curves.get(f"{split}/{metric}", ())) > 1
            ]
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
    colours = dict(zip((group.name for group in comparison.groups), PALETTE, strict=False))
    for group, r, split in run_curves(comparison, metric):
        held_out, strong, scale = split != "train", r is group.runs[0], r.steps_an_epoch if by_epoch else None
        at = f"{tick} %{{x:.4g}}: %{{y:.4g}} {unit}"
        steps, values = zip(*r.curves[f"{split}/{metric}"], strict=True)
        add_line(
            figure,
            [round(step / (scale or 1), 4) for step in steps],
            [round(factor * value, 5) for value in values],
            name=group.name,
            colour=colours[group.name],
            width=2 if held_out and strong else 1.2,
            dash="solid" if held_out else "dot",
            hover=f"{in_figure(group.name)}, {SPLITS[split]}, run {r.run_id[:8]}<br>{at}",
            opacity=1 if strong else 0.45,
            showlegend=all(not trace.showlegend or trace.name != group.name for trace in figure.data),
        )
    figure.update_xaxes(title=axis, rangemode="tozero")
    return figure.update_yaxes(title=f"{metric} ({unit})", rangemode="tozero" if metric == "loss" else "normal")


def caption(comparison: Comparison, metric: str) -> CitedText:
    """The meaning of the lines, and the group that ends best, if all are known to be of the same images."""
    drawn = [curve for curve in run_curves(comparison, metric) if curve[-1] != "train"]
    splits = sorted({split for _, _, split in drawn}, reverse=True)
    text = f"Solid: {' or '.join(SPLITS[split] for split in splits)} images; dotted" if drawn else "Dotted"
    text += ": training batches"
    if any(len(group.runs) > 1 for group in comparison.groups):
        text += "; strong: the first run of a group; faint: its other runs"
    ends = {group.name: r.curves[f"{split}/{metric}"][-1][1] for group, r, split in drawn if r is group.runs[0]}
    if len(splits) == 1 and len(ends) > 1 and comparison.is_of_same_data:
        best = (max if metric == "accuracy" else min)(ends, key=ends.__getitem__)
        value = fine_percent(ends[best]) if metric == "accuracy" else f"{ends[best]:.3f} nats"
        if list(ends.values()).count(ends[best]) == 1:
            text += f". {best} ends {'highest' if metric == 'accuracy' else 'lowest'}, at {value}"
    elif len(splits) > 1 or not comparison.is_of_same_data:
        text += ". Groups cannot be compared by these curves unless they were evaluated on the same images"
    return CitedText(f"{text}.", comparison.sources)
