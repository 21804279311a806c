"""The style of plotly figures: colours, canvas, markers, legends.

Backgrounds are transparent. Text, secondary text and grid have the mid-tones `INK`, `MUTED` and `GRID`, which can be
read on light and on dark paper; a page that knows which it is replaces them by better ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import plotly.graph_objects as go

# Legends are for the page to set (see `legend`): plotly's own does not wrap well, and moves the plot about.

INK, MUTED, GRID = "#6f757c", "#858b92", "#b4b9be"
BLUE, RUST, GREEN = "#3b7dab", "#c4673a", "#5b9168"
SPLIT_COLOURS: Mapping[str, str] = MappingProxyType({"training": BLUE, "validation": GREEN, "test": RUST})


def canvas(*, height: int, left: int = 56, top: int = 10, bottom: int = 48) -> go.Figure:
    axis = {
        "gridcolor": GRID,
        "gridwidth": 0.5,
        "linecolor": GRID,
        "zeroline": False,
        "ticks": "outside",
        "ticklen": 4,
        "tickcolor": GRID,
        "fixedrange": True,  # a finger that scrolls the page must not zoom the figure
        "title": {"standoff": 8},
    }
    return go.Figure(
        layout={
            "template": None,
            "height": height,
            "margin": {"l": left, "r": 14, "t": top, "b": bottom},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {
                "family": "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif",
                "size": 12,
                "color": INK,
            },
            "showlegend": False,
            "hoverlabel": {"font": {"size": 12}},
            "xaxis": axis,
            "yaxis": axis,
            "dragmode": False,
        }
    )


def mark(symbol: str) -> dict[str, Any]:
    """A marker's shape; only hollow ones have an outline."""
    return {"symbol": symbol, "line": {"width": 2 if symbol.endswith("-open") else 0}}


def pc(share: float) -> float:
    return round(100 * share, 4)


def legend(figure: go.Figure) -> list[tuple[str, str, str]]:
    """(name, colour, shape: a class of the page's style) of each kind of mark in a figure."""
    return [_legend_entry(trace) for trace in figure.data if trace.name and trace.showlegend is not False]


_SHAPES: Mapping[str, str] = MappingProxyType(
    {
        "circle": "dot",
        "circle-open": "ring",
        "x-thin-open": "cross",
        "diamond": "diamond",
        "diamond-open": "diamond hollow",
        "line-ew-open": "line",
    }
)
_STROKES: Mapping[str, str] = MappingProxyType({"dash": "dash", "dot": "dots"})


def _legend_entry(trace: Any) -> tuple[str, str, str]:
    if trace.type == "bar":
        return trace.name, trace.marker.color, "square"
    if trace.mode == "lines":
        return trace.name, trace.line.color, _STROKES.get(trace.line.dash, "line")
    return trace.name, trace.marker.color or trace.line.color, _SHAPES.get(trace.marker.symbol, "dot")
