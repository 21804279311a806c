"""The figures of `figures.py` as PNG bytes, for Markdown: same data, same order, same colours."""

from __future__ import annotations

import io
import math
from typing import Any

import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from experiments.pages.plots import BLUE, GREEN, RUST, SPLIT_COLOURS
from experiments.reading.published import Accuracy, Bar
from experiments.sections.accuracy import Calibration, ClassAccuracy, Confusion
from experiments.sections.figures import OVERLAY_DASHES, lowest_tick, overlay_panels
from experiments.sections.learned import Architecture
from experiments.stats import Estimate
from experiments.systems.reproduction import Overlay

INK, MUTED, GRID = "#30343a", "#6b7178", "#d5d8db"


def benchmarks(published: list[Accuracy], ours: Estimate | None, label: str, bar: Bar) -> bytes:
    rows = [
        (a.accuracy, f"{a.name} ({a.source})" if a.group == "benchmark" else a.name, a.same_data, a.decimals, False)
        for a in published
    ]
    if ours:
        rows.append((ours.mean, label, True, 2, True))
    rows.sort(key=lambda row: (row[0], row[1]))
    lowest = lowest_tick([row[0] for row in rows])
    figure, axes = axes_of(8.4, 0.9 + 0.36 * len(rows))
    for share, text in ((bar.rework, "rework"), (bar.start, "start"), (bar.target, "target")):
        colour = RUST if text == "target" else MUTED
        axes.axvline(100 * share, color=colour, linewidth=1.2 if text == "target" else 0.7, zorder=1)
        side = "right" if text == "rework" else "left"
        axes.text(
            100 * share, len(rows) - 0.35, f" {round(100 * share, 2):g} % {text} ", color=colour, fontsize=8, ha=side
        )
    for y, (share, _, same, digits, own) in enumerate(rows):
        colour = RUST if own else BLUE
        axes.plot([lowest, 100 * share], [y, y], color=GRID, linewidth=0.8, zorder=0)
        if own and ours:
            axes.plot([100 * ours.low, 100 * ours.high], [y, y], color=colour, linewidth=2, zorder=2)
        axes.plot(
            100 * share,
            y,
            "o",
            color=colour,
            markerfacecolor=colour if same else "white",
            markersize=7,
            zorder=3,
        )
        axes.annotate(
            f"{100 * share:.{digits}f}",
            (100 * share, y),
            (7, 0),
            textcoords="offset points",
            va="center",
            color=colour,
        )
    axes.set_yticks(range(len(rows)), [row[1] for row in rows])
    for tick, row in zip(axes.get_yticklabels(), rows, strict=True):
        tick.set_color(RUST if row[4] else INK)
    axes.set(xlim=(lowest, 104), ylim=(-0.6, len(rows) + 0.1), xlabel="test accuracy (%)")
    axes.set_xticks(range(lowest, 101, 10))
    axes.grid(visible=False)
    return png(figure)


def losses(curves: pd.DataFrame) -> bytes:
    figure, axes = axes_of(7.2, 3.2)
    _lines(axes, curves, "train/loss", "training", BLUE)
    _lines(axes, curves, "val/loss", "validation", RUST)
    axes.set(xlabel="optimiser step", ylabel="loss (nats an image)")
    axes.set_ylim(bottom=0)
    legend(axes)
    return png(figure)


def accuracies(curves: pd.DataFrame) -> bytes:
    figure, axes = axes_of(7.2, 3.2)
    _lines(axes, curves, "train/accuracy", "training", BLUE, factor=100)
    _lines(axes, curves, "val/accuracy", "validation", RUST, factor=100)
    axes.set(xlabel="optimiser step", ylabel="accuracy (%)")
    legend(axes)
    return png(figure)


def learning_rate(curves: pd.DataFrame) -> bytes:
    figure, axes = axes_of(7.2, 2.2)
    first = curves[curves["run_id"] == curves["run_id"].iloc[0]] if len(curves) else curves
    _lines(axes, first, "lr", "learning rate", GREEN)
    axes.set(xlabel="optimiser step", ylabel="learning rate")
    axes.set_ylim(bottom=0)
    return png(figure)


def classes(rows: tuple[ClassAccuracy, ...], bar: Bar) -> bytes:
    figure, axes = axes_of(7.2, 1.0 + 0.28 * len(rows))
    shown = "test" if any(row.test is not None for row in rows) else "validation"
    for split, colour, face in (("validation", BLUE, "white"), ("test", RUST, RUST)):
        pairs = [(100 * v, y) for y, row in enumerate(rows) if (v := getattr(row, split)) is not None]
        if pairs:
            shares, at = zip(*pairs, strict=True)
            axes.plot(shares, at, "o", color=colour, markerfacecolor=face, markersize=7, label=split, zorder=3)
        if split == shown and all(row.low is not None and row.high is not None for row in rows):
            for y, row in enumerate(rows):
                axes.plot([100 * (row.low or 0), 100 * (row.high or 0)], [y, y], color=colour, linewidth=1.5, zorder=2)
    for y, row in enumerate(rows):
        if row.validation is not None and row.test is not None:
            axes.plot([100 * row.validation, 100 * row.test], [y, y], color=GRID, linewidth=2, zorder=1)
    known = [v for row in rows for v in (row.validation, row.test) if v is not None]
    if known and min(known) < bar.target:
        axes.axvline(100 * bar.target, color=MUTED, linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.set(xlabel="accuracy (%)")
    legend(axes)
    return png(figure)


def confusion(matrix: Confusion) -> bytes:
    figure, axes = axes_of(6.0, 5.4)
    percents = [[100 * v for v in row] for row in matrix.shares]
    errors = [[float("nan") if i == j else v for j, v in enumerate(row)] for i, row in enumerate(percents)]
    highest = max((v for row in errors for v in row if v == v), default=0) or 1
    axes.imshow(errors, cmap=LinearSegmentedColormap.from_list("errors", ["white", RUST]), vmin=0, vmax=1.2 * highest)
    for i, row in enumerate(percents):
        for j, value in enumerate(row):
            whole = int(value + 0.5)
            if whole or i == j:
                weight = "bold" if i == j else "normal"
                axes.text(j, i, f"{value:.0f}", ha="center", va="center", fontsize=8, color=INK, fontweight=weight)
    axes.set_xticks(range(len(percents)), matrix.classes, rotation=45, ha="right")
    axes.set_yticks(range(len(percents)), matrix.classes)
    axes.set(xlabel="taken for", ylabel="true class")
    axes.grid(visible=False)
    return png(figure)


def reliability(calibration: Calibration) -> bytes:
    figure, axes = axes_of(5.4, 4.2)
    bins = calibration.reliability
    filled = [i for i, n in enumerate(bins.counts) if n]
    most = max(bins.counts)
    low = 5 * math.floor(20 * min(min(bins.confidence[i], bins.accuracy[i]) for i in filled))
    axes.plot([low, 100], [low, 100], color=MUTED, linewidth=0.8, linestyle=":", label="as sure as right")
    axes.scatter(
        [100 * bins.confidence[i] for i in filled],
        [100 * bins.accuracy[i] for i in filled],
        s=[(6 + 14 * math.sqrt(bins.counts[i] / most)) ** 2 for i in filled],
        color=RUST,
        alpha=0.85,
        linewidths=0,
        zorder=3,
        label="answers, area by how many",
    )
    axes.set(xlabel="mean probability of the answer (%)", ylabel="right (%)")
    legend(axes)
    return png(figure)


def history(trials: pd.DataFrame) -> bytes:
    figure, axes = axes_of(7.2, 3.2)
    trial_points(axes, trials, lambda t: t["trial"], lambda t: 100 * t["accuracy"])
    best = trials[trials["best"].notna()]
    axes.step(best["trial"], 100 * best["best"], where="post", color=RUST, linewidth=1.8, label="best so far")
    axes.set(xlabel="trial number", ylabel="validation accuracy (%)")
    legend(axes)
    return png(figure)


def architectures(trials: pd.DataFrame, order: tuple[Architecture, ...]) -> bytes:
    ranked = [a.name for a in order]
    names = (ranked + sorted(set(trials["model"]) - set(ranked)))[::-1]
    figure, axes = axes_of(7.2, 1.1 + 0.4 * len(names))
    trial_points(axes, trials, lambda t: 100 * t["accuracy"], lambda t: t["model"].map(names.index))
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="validation accuracy (%)", ylim=(-0.6, len(names) - 0.4))
    legend(axes)
    return png(figure)


def overlay(curves: Overlay) -> bytes:
    panels = overlay_panels(curves)
    figure = Figure(figsize=(7.2, 0.9 + 2.5 * len(panels)), layout="constrained")
    stack = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
    named: dict[str, Any] = {}
    for axes, (title, factor, lines) in zip(stack, panels, strict=True):
        style(axes)
        for line in lines:
            faint = line.seed is not None and line.seed != lines[0].seed
            (drawn,) = axes.plot(
                line.series.epochs,
                [factor * v for v in line.series.values],
                color=SPLIT_COLOURS[line.split],
                linestyle={"solid": "-", "dash": "--", "dot": ":"}[OVERLAY_DASHES[line.kind]],
                linewidth=1 if faint else 1.8 if line.seed is not None else 1.4,
                alpha=0.5 if faint else 1,
                marker="" if len(line.series.epochs) > 1 else "o",
            )
            named.setdefault(line.name, drawn)
        axes.set(ylabel=title)
    stack[-1].set(xlabel="epoch")
    stack[-1].set_xlim(left=0)
    figure.legend(named.values(), named.keys(), loc="outside upper left", ncols=3, frameon=False, fontsize=9)
    return png(figure)


def trial_points(axes: Any, trials: pd.DataFrame, x: Any, y: Any) -> None:
    for states, name, style in (
        (["complete"], "complete", {"marker": "o", "color": BLUE, "alpha": 0.85}),
        (["pruned"], "pruned, when stopped", {"marker": "o", "facecolors": "none", "edgecolors": MUTED}),
        (["failed", "running", "interrupted"], "failed or unfinished", {"marker": "x", "color": MUTED}),
    ):
        some = trials[trials["state"].isin(states)]
        if len(some):
            axes.scatter(x(some), y(some), s=36, label=name, zorder=3, **style)


def _lines(axes: Any, curves: pd.DataFrame, key: str, name: str, colour: str, factor: float = 1) -> None:
    some = curves[curves["key"] == key]
    for index, (_, points) in enumerate(some.groupby("run_id", sort=False)):
        axes.plot(
            points["step"],
            factor * points["value"],
            color=colour,
            linewidth=1.8 if index == 0 else 1,
            alpha=1 if index == 0 else 0.5,
            marker="" if len(points) > 1 else "o",
            label=name if index == 0 else None,
        )


def legend(axes: Any, columns: int = 4) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=columns, frameon=False, borderaxespad=0)


def axes_of(width: float, height: float) -> tuple[Figure, Any]:
    # No pyplot: it keeps figures and settings for the whole process.
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    style(axes)
    return figure, axes


def style(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRID)
    axes.tick_params(color=GRID, labelcolor=INK, labelsize=9)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    axes.grid(color=GRID, linewidth=0.5)
    axes.set_axisbelow(True)


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.set_dpi(144)
    if (layout := figure.get_layout_engine()) is not None:
        layout.execute(figure)
        figure.set_layout_engine("none")  # once is enough; saving would do it twice
    figure.savefig(buffer, format="png", dpi=144, metadata={"Software": None})  # no version: same data, same bytes
    return buffer.getvalue()
