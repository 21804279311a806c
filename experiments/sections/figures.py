"""Plotly figures of the report: data in, figure out; no input or output.

Backgrounds are transparent, and text, secondary text and grid have the mid-tones `INK`, `MUTED` and `GRID`,
which can be read on light and on dark paper; a page that knows which it is may replace them by better ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from experiments.pages.plots import BLUE, GREEN, GRID, INK, MUTED, RUST, SPLIT_COLOURS, canvas, mark, pc
from experiments.reading.published import Accuracy, Bar
from experiments.sections.accuracy import Calibration, ClassAccuracy, Confusion
from experiments.sections.learned import Architecture
from experiments.stats import Estimate
from experiments.systems.reproduction import Line, Overlay


def benchmarks(published: list[Accuracy], ours: Estimate | None, label: str, bar: Bar) -> go.Figure:
    """Accuracies one below the other, the best on top: published ones and, with its interval, ours."""
    # Short names: on a narrow screen, that of a low accuracy would run into its figure.
    rows = [
        (a.accuracy, a.name.removesuffix(", as published"), a.date[:4], a.same_data, a.decimals, False)
        for a in published
    ]
    if ours:
        rows.append((ours.mean, label, "", True, 2, True))
    rows.sort(key=lambda row: (row[0], row[1]))
    lowest = lowest_tick([row[0] for row in rows])
    figure = canvas(height=62 + 46 * len(rows), left=6, top=26)
    figure.add_annotation(
        x=100 * bar.target,
        y=1,
        yref="paper",
        yanchor="bottom",
        text=f"{round(100 * bar.target, 2):g} % target",
        font={"size": 11, "color": RUST},
        showarrow=False,
    )
    shapes: list[dict[str, Any]] = []
    for y, (share, name, year, same, digits, own) in enumerate(rows):
        colour = RUST if own else BLUE
        for level in (bar.rework, bar.start, bar.target):
            line = {"color": RUST if level == bar.target else MUTED, "width": 1.5 if level == bar.target else 1}
            x = 100 * level
            shapes.append({"type": "line", "x0": x, "x1": x, "y0": y - 0.15, "y1": y + 0.1, "line": line})
        when = f"  <span style='font-size:11px'>{year}</span>" if year else ""
        figure.add_annotation(
            x=0,
            y=y,
            xref="paper",
            xanchor="left",
            yshift=13,
            text=f"<b>{name}</b>" if own else name + when,
            font={"color": RUST if own else INK, "size": 13},
            showarrow=False,
        )
        shapes.append(
            {
                "type": "line",
                "x0": lowest,
                "x1": 100 * share,
                "y0": y,
                "y1": y,
                "line": {"color": GRID, "width": 1},
                "layer": "below",
            }
        )
        error = None
        if own and ours:
            error = {
                "type": "data",
                "symmetric": False,
                "array": [pc(ours.high - ours.mean)],
                "arrayminus": [pc(ours.mean - ours.low)],
                "thickness": 1.5,
                "width": 5,
            }
        figure.add_scatter(
            x=[pc(share)],
            y=[y],
            error_x=error,
            mode="markers+text",
            marker={
                "size": 11,
                "color": colour,
                **mark("circle" if same else "circle-open"),
            },
            text=[f"{100 * share:.{digits}f}"],
            textposition="top center",
            textfont={"color": colour, "size": 12},
            hovertemplate=f"{name}: %{{x:.2f}} %<extra></extra>",
            showlegend=False,
        )
    figure.layout.shapes = shapes  # all at once, as the annotations of `confusion`
    marks = {round(100 * v, 2) for v in (bar.rework, bar.start, bar.target)}
    ticks = sorted({*range(lowest, 41, 10), 60, 80, 90, 100} | marks)
    figure.update_xaxes(title="test accuracy (%)", range=[lowest, 102], tickvals=ticks, showgrid=False)
    figure.update_yaxes(visible=False, range=[-0.6, len(rows) - 0.2])
    return figure


def lowest_tick(shares: Sequence[float]) -> int:
    """Where the axis of `benchmarks` begins, in percent: at 40, or lower where an accuracy is."""
    return min(40, 10 * math.floor(10 * min(shares, default=1)))


def losses(curves: pd.DataFrame) -> go.Figure:
    """Training and validation loss by step; with several runs, the first one strong and the others faint."""
    figure = canvas(height=310)
    _lines(figure, curves, "train/loss", "training", BLUE)
    _lines(figure, curves, "val/loss", "validation", RUST)
    figure.update_xaxes(title="optimiser step")
    figure.update_yaxes(title="loss (nats an image)", rangemode="tozero")
    return figure


def accuracies(curves: pd.DataFrame) -> go.Figure:
    """Training and validation accuracy by step."""
    figure = canvas(height=310)
    _lines(figure, curves, "train/accuracy", "training", BLUE, factor=100)
    _lines(figure, curves, "val/accuracy", "validation", RUST, factor=100)
    figure.update_xaxes(title="optimiser step")
    figure.update_yaxes(title="accuracy (%)")
    return figure


def learning_rate(curves: pd.DataFrame) -> go.Figure:
    """The learning rate of the first run by step."""
    figure = canvas(height=230)
    first = curves[curves["run_id"] == curves["run_id"].iloc[0]] if len(curves) else curves
    _lines(figure, first, "lr", "learning rate", GREEN)
    figure.update_xaxes(title="optimiser step")
    figure.update_yaxes(title="learning rate", rangemode="tozero")
    return figure


def classes(rows: tuple[ClassAccuracy, ...], bar: Bar) -> go.Figure:
    """Accuracy of each class on validation and test images, the weakest at the bottom."""
    figure = canvas(height=72 + 27 * len(rows), left=82)
    names = [row.name for row in rows]
    shown = "test" if any(row.test is not None for row in rows) else "validation"
    for split, colour, symbol in (("validation", BLUE, "circle-open"), ("test", RUST, "circle")):
        values = [getattr(row, split) for row in rows]
        interval = None
        if split == shown and all(row.low is not None and row.high is not None for row in rows):
            interval = {
                "type": "data",
                "symmetric": False,
                "array": [pc((row.high or 0) - row.shown) for row in rows],
                "arrayminus": [pc(row.shown - (row.low or 0)) for row in rows],
                "thickness": 1.5,
                "width": 0,
                "color": colour,
            }
        if any(v is not None for v in values):
            figure.add_scatter(
                x=[None if v is None else pc(v) for v in values],
                y=names,
                error_x=interval,
                mode="markers",
                name=split + (" with 95 % interval" if interval else ""),
                marker={"size": 10, "color": colour, **mark(symbol)},
                hovertemplate=f"%{{y}}, {split}: %{{x:.1f}} %<extra></extra>",
            )
    for y, row in enumerate(rows):
        if row.validation is not None and row.test is not None:
            span = {"x0": 100 * row.validation, "x1": 100 * row.test, "y0": y, "y1": y}
            figure.add_shape(type="line", **span, line={"color": GRID, "width": 2}, layer="below")
    known = [v for row in rows for v in (row.validation, row.test) if v is not None]
    if known and min(known) < bar.target:
        figure.add_vline(x=100 * bar.target, line={"color": MUTED, "width": 1, "dash": "dot"})
    figure.update_xaxes(title="accuracy (%)")
    figure.update_yaxes(showgrid=False)
    return figure


def confusion(matrix: Confusion) -> go.Figure:
    """What images of each class (row) were taken for, in percent; colour shows errors only."""
    percents = [[100 * v for v in row] for row in matrix.shares]
    errors = [[None if i == j else round(v, 3) for j, v in enumerate(row)] for i, row in enumerate(percents)]
    figure = canvas(height=470, left=100, bottom=92)
    figure.add_heatmap(
        z=errors,
        x=list(matrix.classes),
        y=list(matrix.classes),
        colorscale=[[0, "rgba(196,103,58,0)"], [1, "rgba(196,103,58,0.85)"]],
        zmin=0,
        showscale=False,
        hovertemplate="%{y} called %{x}: %{z:.1f} %<extra></extra>",
        hoverongaps=False,
        xgap=1,
        ygap=1,
    )
    figure.layout.annotations = [  # all at once: one by one, plotly copies those before each time
        {
            "x": matrix.classes[j],
            "y": matrix.classes[i],
            "text": f"<b>{whole}</b>" if i == j else str(whole),
            "font": {"size": 11, "color": INK},
            "showarrow": False,
        }
        for i, row in enumerate(percents)
        for j, value in enumerate(row)
        if (whole := int(value + 0.5)) or i == j
    ]
    figure.update_xaxes(title="taken for", tickangle=-45, showgrid=False)
    figure.update_yaxes(title="true class", autorange="reversed", showgrid=False)
    return figure


def reliability(calibration: Calibration) -> go.Figure:
    """Share of right answers by how sure the answers were, in bins; on the diagonal, the two agree."""
    figure = canvas(height=340, left=56)
    bins = calibration.reliability
    filled = [i for i, n in enumerate(bins.counts) if n]
    most = max(bins.counts)
    low = 5 * math.floor(20 * min(min(bins.confidence[i], bins.accuracy[i]) for i in filled))
    figure.add_scatter(
        x=[low, 100],
        y=[low, 100],
        mode="lines",
        line={"color": MUTED, "width": 1, "dash": "dot"},
        name="as sure as right",
        hoverinfo="skip",
    )
    figure.add_scatter(
        x=[pc(bins.confidence[i]) for i in filled],
        y=[pc(bins.accuracy[i]) for i in filled],
        customdata=[bins.counts[i] for i in filled],
        mode="markers",
        name="answers, area by how many",
        marker={
            "size": [round(6 + 20 * math.sqrt(bins.counts[i] / most), 2) for i in filled],
            "color": RUST,
            "opacity": 0.85,
            **mark("circle"),
        },
        hovertemplate="sure %{x:.1f} %, right %{y:.1f} %<br>%{customdata:,} answers<extra></extra>",
    )
    figure.update_xaxes(title="mean probability of the answer (%)", range=[low - 2, 102])
    figure.update_yaxes(title="right (%)", range=[low - 4, 104])
    return figure


def history(trials: pd.DataFrame) -> go.Figure:
    """Validation accuracy of each trial by number, and the best complete one so far (see `best_so_far`)."""
    figure = canvas(height=320)
    trial_points(figure, trials, x="trial", y="accuracy", factor_y=100)
    best = trials[trials["best"].notna()]
    figure.add_scatter(
        x=[int(v) for v in best["trial"]],
        y=[pc(v) for v in best["best"]],
        mode="lines",
        line={"color": RUST, "width": 2, "shape": "hv"},
        name="best so far",
        hovertemplate="best up to trial %{x}: %{y:.1f} %<extra></extra>",
    )
    figure.update_xaxes(title="trial number", rangemode="tozero", dtick=1 if trials["trial"].max() < 10 else None)
    figure.update_yaxes(title="validation accuracy (%)")
    return figure


def architectures(trials: pd.DataFrame, order: tuple[Architecture, ...]) -> go.Figure:
    """Validation accuracy of every trial by architecture, the best architecture on top."""
    ranked = [a.name for a in order]
    names = ranked + sorted(set(trials["model"]) - set(ranked))
    figure = canvas(height=90 + 42 * len(names), left=24 + 6 * max(map(len, names), default=0))
    trial_points(figure, trials, x="accuracy", y="model", factor_x=100)
    figure.update_xaxes(title="validation accuracy (%)")
    figure.update_yaxes(categoryorder="array", categoryarray=names[::-1], range=[-0.6, len(names) - 0.4])
    return figure


def overlay(curves: Overlay) -> go.Figure:
    """Accuracy over loss by epoch: ours solid, with several runs the first strong; published dashed."""
    panels = overlay_panels(curves)
    figure = canvas(height=30 + 245 * len(panels))
    named: set[str] = set()
    for row, (title, factor, lines) in enumerate(panels):
        number = "" if row == 0 else str(row + 1)
        figure.layout[f"xaxis{number}"] = figure.layout.xaxis
        figure.layout[f"yaxis{number}"] = figure.layout.yaxis
        top = 1 - row / len(panels)
        last = row == len(panels) - 1
        figure.layout[f"yaxis{number}"].update(title=title, domain=[top - 1 / len(panels) + 0.045 * (not last), top])
        figure.layout[f"xaxis{number}"].update(
            title="epoch" if last else None,
            rangemode="tozero",
            anchor=f"y{number}",
            matches="x" if row else None,
            showticklabels=last,
        )
        for line in lines:
            faint = line.seed is not None and line.seed != lines[0].seed
            colour = SPLIT_COLOURS[line.split]
            figure.add_scatter(
                x=[round(v, 4) for v in line.series.epochs],
                y=[round(factor * v, 5) for v in line.series.values],
                xaxis=f"x{number}",
                yaxis=f"y{number}",
                mode="lines" if len(line.series.epochs) > 1 else "markers",
                line={
                    "color": colour,
                    "width": 1.2 if faint else 2 if line.seed is not None else 1.6,
                    "dash": OVERLAY_DASHES[line.kind],
                },
                marker={"size": 8, "color": colour, **mark("circle")},
                opacity=0.5 if faint else 1,
                name=line.name,
                legendgroup=line.name,
                showlegend=line.name not in named,
                hovertemplate=f"{line.name}{_of_seed(line)}<br>epoch %{{x:.4g}}: %{{y:.4g}}<extra></extra>",
            )
            named.add(line.name)
    return figure


OVERLAY_DASHES: Mapping[str, str] = MappingProxyType(
    {"ours": "solid", "end": "solid", "published": "dash", "level": "dot"}
)


def overlay_panels(curves: Overlay) -> list[tuple[str, float, tuple[Line, ...]]]:
    """(title of the axis, factor to its unit, lines) of each panel of `overlay`, from the top."""
    panels = [("accuracy (%)", 100.0, curves.accuracies), ("loss (nats an image)", 1.0, curves.losses)]
    return [panel for panel in panels if panel[2]]


def _of_seed(line: Line) -> str:
    return "" if line.seed is None else f", seed {line.seed}"


def trial_points(
    figure: go.Figure, trials: pd.DataFrame, *, x: str, y: str, factor_x: float = 1, factor_y: float = 1
) -> None:
    for states, name, symbol, colour in (
        (["complete"], "complete", "circle", BLUE),
        (["pruned"], "pruned, when stopped", "circle-open", MUTED),
        (["failed", "running", "interrupted"], "failed or unfinished", "x-thin-open", MUTED),
    ):
        some = trials[trials["state"].isin(states)]
        if len(some):
            figure.add_scatter(
                x=[v if factor_x == 1 else pc(v) for v in some[x].tolist()],
                y=[v if factor_y == 1 else pc(v) for v in some[y].tolist()],
                customdata=[
                    f"trial {trial}, {model}<br>run {run_id[:8]}"
                    for trial, model, run_id in zip(some["trial"], some["model"], some["run_id"], strict=True)
                ],
                mode="markers",
                cliponaxis=False,
                name=name,
                marker={
                    "size": 9,
                    "color": colour,
                    "opacity": 0.85,
                    **mark(symbol),
                },
                hovertemplate=f"%{{customdata}}<extra>{name}</extra>",
            )


def _lines(figure: go.Figure, curves: pd.DataFrame, key: str, name: str, colour: str, factor: float = 1) -> None:
    some = curves[curves["key"] == key]
    for index, (run_id, points) in enumerate(some.groupby("run_id", sort=False)):
        figure.add_scatter(
            x=[int(v) for v in points["step"]],
            y=[round(factor * v, 5) for v in points["value"]],
            mode="lines" if len(points) > 1 else "markers",
            line={"color": colour, "width": 2 if index == 0 else 1.2},
            opacity=1 if index == 0 else 0.5,
            name=name,
            legendgroup=name,
            showlegend=index == 0,
            hovertemplate=f"{name}, run {str(run_id)[:8]}<br>step %{{x}}: %{{y:.4g}}<extra></extra>",
        )
