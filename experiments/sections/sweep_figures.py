"""Plotly figures of what the sweep learned: importances, slices, accuracy against compute."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from experiments.pages.plots import BLUE, GREEN, GRID, INK, MUTED, RUST, canvas, mark, pc
from experiments.reading.published import Accuracy
from experiments.sections.learned import Front, Importances, Slice
from experiments.stats import Estimate

PFLOP = 1e15
_BETWEEN = 0.2  # the rows of panels, for the titles of their axes
BEYOND = 4.0  # how far to the right of all else, as a factor, systems stand whose compute is not published


def importances(found: Importances) -> go.Figure:
    """What each parameter explains, the most on top."""
    names = [name for name, _ in found.shares][::-1]
    figure = canvas(height=70 + 24 * len(names), left=24 + 7 * max(map(len, names), default=0))
    figure.add_bar(
        x=[pc(share) for _, share in found.shares][::-1],
        y=names,
        orientation="h",
        marker={"color": BLUE},
        name="importance",
        hovertemplate="%{y}: %{x:.1f} %<extra></extra>",
    )
    figure.update_xaxes(title="importance (%)", rangemode="tozero")
    figure.update_yaxes(showgrid=False)
    return figure


def slices(parts: Sequence[Slice]) -> go.Figure:
    """Validation accuracy of complete trials by one parameter a panel, the most important first."""
    rows = (len(parts) + 1) // 2
    figure = canvas(height=30 + 225 * rows)
    below = figure.layout.xaxis, figure.layout.yaxis
    for index, part in enumerate(parts):
        number = "" if index == 0 else str(index + 1)
        row, column = divmod(index, 2)
        figure.layout[f"xaxis{number}"], figure.layout[f"yaxis{number}"] = below
        height = (1 - _BETWEEN * (rows - 1)) / rows
        top = 1 - row * (height + _BETWEEN)
        figure.layout[f"xaxis{number}"].update(
            title={"text": part.parameter, "font": {"size": 11}},
            domain=[0.53 * column, 0.53 * column + 0.47],
            anchor=f"y{number}",
            type="category" if not part.numeric else "log" if part.log else "linear",
            categoryorder="category ascending",
            nticks=5,
        )
        figure.layout[f"yaxis{number}"].update(
            title="validation accuracy (%)" if column == 0 else None,
            domain=[max(0, top - height), top],
            anchor=f"x{number}",
            matches="y" if index else None,
            showticklabels=column == 0,
        )
        figure.add_scatter(
            x=[round(v, 6) if isinstance(v, float) else v for v in part.values],
            y=[pc(v) for v in part.accuracies],
            customdata=list(part.trials),
            xaxis=f"x{number}",
            yaxis=f"y{number}",
            mode="markers",
            name=part.parameter,
            showlegend=False,
            marker={"size": 8, "color": BLUE, "opacity": 0.7, **mark("circle")},
            hovertemplate=f"trial %{{customdata}}<br>{part.parameter} %{{x}}: %{{y:.1f}} %<extra></extra>",
        )
    return figure


def front(found: Front, published: Sequence[Accuracy], test: Estimate | None, label: str) -> go.Figure:
    """Accuracy against training compute: every run a point, published systems on the same axes."""
    figure = canvas(height=460)
    runs = found.runs
    for stage, states, name, symbol, colour in (
        ("search", ["complete"], "complete trials", "circle", BLUE),
        ("search", ["pruned"], "pruned trials, when stopped", "circle-open", MUTED),
        ("confirm", ["complete"], "trained again", "circle", GREEN),
    ):
        some = runs[(runs["stage"] == stage) & runs["state"].isin(states)]
        if len(some):
            figure.add_scatter(
                x=[_pflop(v) for v in some["flops"]],
                y=[pc(v) for v in some["accuracy"]],
                customdata=[f"trial {t}, {m}" for t, m in zip(some["trial"], some["model"], strict=True)],
                mode="markers",
                name=f"{name} (validation)",
                marker={"size": 8, "color": colour, "opacity": 0.8, **mark(symbol)},
                hovertemplate="%{customdata}<br>%{x:.3g} PFLOP, %{y:.1f} %<extra></extra>",
            )
    figure.add_scatter(
        x=[_pflop(v) for v, _ in found.best],
        y=[pc(v) for _, v in found.best],
        mode="lines",
        line={"color": GREEN, "width": 1.5, "shape": "hv"},
        name="best for its compute (validation)",
        hoverinfo="skip",
    )
    ours = champion_flops(found) if test else None
    if test and ours:
        figure.add_scatter(
            x=[_pflop(ours)],
            y=[pc(test.mean)],
            mode="markers",
            name=f"{label} (test)",
            marker={"size": 13, "color": RUST, **mark("diamond")},
            hovertemplate="%{x:.3g} PFLOP, %{y:.2f} % of the test images<extra></extra>",
        )
    edge, labels = edge_of(found, published), labels_of(published)
    for known, name, symbol in (
        (True, "published (test)", "diamond-open"),
        (False, "published, compute not stated (at the right edge)", "line-ew-open"),
    ):
        some_of = [a for a in published if (a.training_flops == a.training_flops) == known]
        if some_of:
            figure.add_scatter(
                x=[_pflop(a.training_flops if known else edge) for a in some_of],
                y=[pc(a.accuracy) for a in some_of],
                customdata=[a.name for a in some_of],
                mode="markers+text" if known else "markers",
                text=[labels.get(a.key, "") for a in some_of] if known else None,
                textposition=[_beside(a, some_of) for a in some_of],
                textfont={"size": 11, "color": MUTED},
                cliponaxis=False,
                name=name,
                marker={"size": 10, "color": INK, **mark(symbol)},
                hovertemplate="%{customdata}: %{y:.1f} %<extra></extra>",
            )
    figure.update_xaxes(title="training compute (PFLOP, log scale)", type="log", dtick=1, gridcolor=GRID)
    figure.update_yaxes(title="accuracy (%)")
    return figure


def _beside(accuracy: Accuracy, others: Sequence[Accuracy]) -> str:
    """Where the name stands: those that can be downloaded above their marks, the dearest to the right."""
    if accuracy.group != "public":
        return "bottom center"
    dearest = max(a.training_flops for a in others if a.group == "public")
    return "top right" if accuracy.training_flops == dearest else "top left"


def labels_of(published: Sequence[Accuracy]) -> dict[str, str]:
    """What stands beside the mark of a system whose compute is known, by its key; of one family, beside the best."""
    best: dict[str, Accuracy] = {}
    for a in published:
        name = a.name.partition(",")[0]
        if a.training_flops == a.training_flops and (name not in best or a.accuracy > best[name].accuracy):
            best[name] = a
    return {a.key: name for name, a in best.items()}


def edge_of(found: Front, published: Sequence[Accuracy]) -> float:
    """FLOPs of the place to the right of all that is known."""
    known = [a.training_flops for a in published if a.training_flops == a.training_flops]
    return BEYOND * max([*known, *found.runs["flops"].tolist()], default=PFLOP)


def champion_flops(found: Front) -> float | None:
    """Mean FLOPs of the champion's runs."""
    own = found.runs[found.runs["champion"]]["flops"]
    return float(own.mean()) if len(own) else None


def _pflop(flops: float) -> float:
    return float(f"{flops / PFLOP:.6g}")
