"""Figure of a published system: our curves over the published ones."""

from __future__ import annotations

from dataclasses import dataclass

import plotly.graph_objects as go

from experiments.pages.plots import SPLIT_COLOURS, add_line, canvas
from experiments.reading.published_curves import Series
from experiments.reading.study import SPLITS
from experiments.systems.system import System, our_series, tested_epoch

_PANELS = (("accuracy", "%", 100.0), ("loss", "nats an image", 1.0))  # and their units, from the top


@dataclass(frozen=True, slots=True)
class _Curve:
    """A line of the figure.

    Attributes:
        split: "train", "val" or "test".
        series: accuracies as shares, or losses as mean nats an image.
        seed: seed of our run; None for a published curve.
        end: True for an accuracy that is known once: a point of ours at the epoch of the tested weights, or a
            published level.
    """

    split: str
    series: Series
    seed: int | None = None
    end: bool = False


def overlay(system: System) -> go.Figure | None:
    """Accuracy over loss by epoch, or None without a curve of ours.

    Ours is solid, with several runs the first strong and the others faint; the published one is dashed.
    """
    panels = [(*panel, curves) for panel in _PANELS if (curves := _curves(system, panel[0]))]
    if not panels:
        return None
    count = len(panels)
    figure = canvas(height=30 + 245 * count, rows=count, shared_xaxes=True, vertical_spacing=0.045)
    for row, (what, unit, factor, curves) in enumerate(panels, start=1):
        figure.update_yaxes(title=f"{what} ({unit})", row=row)
        for curve in curves:
            _add(figure, curve, factor, unit, row, faint=curve.seed not in (None, curves[0].seed))
    figure.update_xaxes(rangemode="tozero")
    return figure.update_xaxes(title="epoch", row=count)


def _curves(system: System, quantity: str) -> list[_Curve]:
    """The curves of accuracy or loss; empty if no matching run has completed an epoch."""
    curves = [
        _Curve(split, series, r.seed)
        for split in SPLITS
        for r in system.matching
        if (series := our_series(r).get(f"{split}_{quantity}")) is not None and (split != "test" or r.watched == "test")
    ]
    if not curves:
        return []
    last = max(epoch for curve in curves for epoch in curve.series.epochs)
    published = {split: s for split in SPLITS if (s := system.curves.series.get(f"{split}_{quantity}")) is not None}
    if quantity == "accuracy":
        for r in system.matching:
            if r.test is not None and r.watched != "test":
                curves.append(_Curve("test", Series((tested_epoch(r),), (r.test.accuracy,)), r.seed, end=True))
        if "test" not in published:
            curves.append(_Curve("test", Series((0.0, last), (system.published.accuracy,) * 2), end=True))
    return [*curves, *(_Curve(split, series) for split, series in published.items())]


def _add(figure: go.Figure, curve: _Curve, factor: float, unit: str, row: int, *, faint: bool) -> None:
    ours, split = curve.seed is not None, SPLITS[curve.split]
    name = f"{split}{' result' if curve.end else ''}, {'ours' if ours else 'published'}"
    when = "" if curve.end and not ours else "epoch %{x:.4g}: "  # a published level is of no epoch
    add_line(
        figure,
        [round(v, 4) for v in curve.series.epochs],
        [round(factor * v, 5) for v in curve.series.values],
        name=name,
        colour=SPLIT_COLOURS[split],
        width=1.2 if faint else 3 if ours else 1.6,
        dash="solid" if ours else "dot" if curve.end else "dash",
        hover=f"{name}{f', seed {curve.seed}' if ours else ''}<br>{when}%{{y:.4g}} {unit}",
        opacity=(0.5 if faint else 0.6) if ours and not curve.end else 1,  # a published line shows on ours
        showlegend=all(trace.name != name for trace in figure.data),
        row=row,
        col=1,
    )
