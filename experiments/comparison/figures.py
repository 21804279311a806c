"""Plotly figures of runs side by side: one colour a side; no input or output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import plotly.graph_objects as go

from experiments.comparison.differences import Classes, Comparison, Side
from experiments.pages.plots import BLUE, GREEN, GRID, RUST, canvas, mark, pc

# As many as sides can be; mid-tones, for light and for dark paper.
SIDE_COLOURS = (BLUE, RUST, GREEN, "#8a6bb1", "#a98a2c", "#3a9898", "#bb5c86", "#7d848b")
SPLITS: Mapping[str, str] = {"train": "training", "val": "validation", "test": "test"}


@dataclass(frozen=True, slots=True)
class Line:
    """A curve of one run; evaluated on held-out images, or on its training batches."""

    side: str
    colour: str
    split: str  # train | val | test
    run_id: str
    strong: bool  # the first run of its side
    x: tuple[float, ...]  # epochs or optimiser steps
    values: tuple[float, ...]


def lines(comparison: Comparison, what: str) -> tuple[Line, ...]:
    """The curves of "loss" or "accuracy": of training, and of the held-out images that each run was watched on."""
    by_epoch = in_epochs(comparison)
    found = []
    for side, colour in zip(comparison.sides, SIDE_COLOURS, strict=False):
        for index, r in enumerate(side.runs):
            held_out = max(("val", "test"), key=lambda split: len(r.curves.get(f"{split}/{what}", ())))
            for split in (held_out, "train"):
                points = r.curves.get(f"{split}/{what}", ())
                if points:
                    scale = r.steps_an_epoch if by_epoch and r.steps_an_epoch else 1.0
                    x = tuple(step / scale for step, _ in points)
                    values = tuple(value for _, value in points)
                    found.append(Line(side.name, colour, split, r.run_id, index == 0, x, values))
    return tuple(found)


def in_epochs(comparison: Comparison) -> bool:
    """Whether each run with curves says how many epochs it ran; else only steps are known of all."""
    return all(r.steps_an_epoch is not None for side in comparison.sides for r in side.runs if r.curves)


def curves(comparison: Comparison, what: str) -> go.Figure:
    """Curves of "loss" or "accuracy" over each other: held-out images solid, training dotted, further seeds faint."""
    figure = canvas(height=340)
    factor, unit = (100.0, "%") if what == "accuracy" else (1.0, "nats an image")
    named: set[str] = set()
    for line in lines(comparison, what):
        held_out = line.split != "train"
        figure.add_scatter(
            x=[round(v, 4) for v in line.x],
            y=[round(factor * v, 5) for v in line.values],
            mode="lines" if len(line.x) > 1 else "markers",
            line={
                "color": line.colour,
                "width": 2 if held_out and line.strong else 1.2,
                "dash": "solid" if held_out else "dot",
            },
            marker={"size": 8, "color": line.colour, **mark("circle")},
            opacity=1 if line.strong else 0.45,
            name=line.side,
            legendgroup=line.side,
            showlegend=held_out and line.side not in named,
            hovertemplate=f"{line.side}, {SPLITS[line.split]}, run {line.run_id[:8]}<br>"
            f"{'epoch' if in_epochs(comparison) else 'step'} %{{x:.4g}}: %{{y:.4g}}<extra></extra>",
        )
        if held_out:
            named.add(line.side)
    figure.update_xaxes(title="epoch" if in_epochs(comparison) else "optimiser step", rangemode="tozero")
    figure.update_yaxes(title=f"{what} ({unit})", rangemode="tozero" if what == "loss" else "normal")
    return figure


def classes(comparison: Comparison, rows: Classes) -> go.Figure:
    """Accuracy of each class on each side, the reference's weakest at the bottom."""
    figure = canvas(height=72 + 30 * len(rows.rows), left=82)
    names = [row.name for row in rows.rows]
    for y, row in enumerate(rows.rows):
        span = {"x0": 100 * min(row.accuracies), "x1": 100 * max(row.accuracies), "y0": y, "y1": y}
        figure.add_shape(type="line", **span, line={"color": GRID, "width": 2}, layer="below")
    for at, (side, colour) in enumerate(zip(comparison.sides, SIDE_COLOURS, strict=False)):
        figure.add_scatter(
            x=[pc(row.accuracies[at]) for row in rows.rows],
            y=names,
            mode="markers",
            name=side.name,
            marker={"size": 10, "color": colour, **mark(_symbol(side, comparison))},
            hovertemplate=f"%{{y}}, {side.name}: %{{x:.1f}} %<extra></extra>",
        )
    figure.update_xaxes(title=f"accuracy on the {rows.split} images (%)")
    figure.update_yaxes(showgrid=False)
    return figure


def _symbol(side: Side, comparison: Comparison) -> str:
    return "circle-open" if side is comparison.reference else "circle"
