"""Plotly figures of the total: cost curves over the horizon, and what moves the decision."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from experiments.decision.costs import Way
from experiments.decision.sensitivity import Swing
from experiments.pages.plots import BLUE, GREEN, INK, MUTED, RUST, canvas
from experiments.pages.text import total

WAY_COLOURS = (BLUE, GREEN, "#8a6fb0", MUTED)  # of vendors, in the order of the scenario


def cost_curves(ways: Sequence[Way], months: float) -> go.Figure:
    """What each way has cost after so many months; building first and strong."""
    figure = canvas(height=340, left=72)
    for index, way in enumerate(ways):
        figure.add_scatter(
            x=[0, round(months, 4)],
            y=[round(way.once, 2), round(way.total(months), 2)],
            mode="lines",
            line={
                "color": way_colour(ways, index),
                "width": 2 if way.vendor else 3,
                "dash": "dash" if way.vendor else "solid",
            },
            name=f"{way.name}, {total(way.total(months))}",
            hovertemplate=f"{way.name}, month %{{x:.0f}}: $%{{y:,.0f}}<extra></extra>",
        )
    figure.update_xaxes(title="months", rangemode="tozero")
    figure.update_yaxes(title="cost so far (US dollars)", rangemode="tozero", tickformat=",.0f")
    return figure


def way_colour(ways: Sequence[Way], index: int) -> str:
    """Rust for building; the vendors' colours begin anew where there are more of them."""
    if ways[index].vendor is None:
        return RUST
    before = sum(way.vendor is not None for way in ways[:index])
    return WAY_COLOURS[before % len(WAY_COLOURS)]


def flip_label(swing: Swing) -> str:
    """Where the answer changes, in few words."""
    if not swing.becomes:
        return "flips nothing"
    return f"{swing.becomes.lower()} {'below' if swing.factor < 1 else 'above'} {swing.flip}"


def tornado(swings: Sequence[Swing], saved: float) -> go.Figure:
    """What building saves with each assumption halved and doubled, the widest on top; left of 0 it costs more."""
    rows = list(reversed(swings))
    figure = canvas(height=80 + 52 * len(rows), left=10, top=26)
    for name, colour, of in (("halved", BLUE, "low"), ("doubled", RUST, "high")):
        figure.add_bar(
            x=[round(getattr(s, of) - saved, 2) for s in rows],
            y=list(range(len(rows))),
            base=round(saved, 2),
            orientation="h",
            width=0.36,
            name=name,
            marker={"color": colour},
            customdata=[
                [s.name, total(getattr(s, of)) if getattr(s, of) >= 0 else f"-{total(-getattr(s, of))}"] for s in rows
            ],
            hovertemplate=f"%{{customdata[0]}} {name}: building saves %{{customdata[1]}}<extra></extra>",
        )
    for y, swing in enumerate(rows):
        flip = flip_label(swing)
        figure.add_annotation(
            x=0,
            y=y,
            xref="paper",
            xanchor="left",
            yshift=18,
            text=f"<b>{swing.name}</b>: {flip}",
            font={"size": 11.5, "color": INK},
            showarrow=False,
        )
    figure.add_vline(x=0, line={"color": MUTED, "width": 1.5})
    figure.add_vline(x=round(saved, 2), line={"color": MUTED, "width": 1, "dash": "dot"})
    figure.update_xaxes(title="saved by building over the horizon (US dollars)", tickformat=",.0f", nticks=6)
    figure.update_yaxes(visible=False, range=[-0.6, len(rows) - 0.2])
    figure.update_layout(barmode="overlay")
    return figure
