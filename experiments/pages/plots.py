"""The style of plotly figures: colours, canvas, markers, legends.

Backgrounds are transparent. Text, secondary text and grid have the mid-tones `INK`, `MUTED` and `GRID`, which can be
read on light and on dark paper; a page that knows which it is replaces them by better ones, and `PAPER` by its own.
"""

from __future__ import annotations

import html
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

# Legends are for the page to set (see `legend`): plotly's own does not wrap well, and moves the plot about.

INK, MUTED, GRID, PAPER = "#6f757c", "#858b92", "#b4b9be", "#fdfcfa"
BLUE, RUST, GREEN = "#3b7dab", "#c4673a", "#5b9168"
_LONGEST_NAME = 24  # letters of a class
PALETTE = (BLUE, RUST, GREEN, "#8a6bb1", "#a98a2c", "#3a9898", "#bb5c86", "#7d848b")
_WAYS = (GREEN, BLUE, *PALETTE[3:], "#5f6fc4", "#93a13b")  # beside building: the first adapts, if any does
SPLIT_COLOURS: Mapping[str, str] = {"training": BLUE, "validation": GREEN, "test": RUST}


def canvas(
    *, height: int, left: int = 56, top: int = 10, bottom: int = 48, rows: int = 1, columns: int = 1, **spacing: Any
) -> go.Figure:
    """An empty figure in the style of the pages.

    Args:
        spacing: further arguments of `plotly.subplots.make_subplots`, for a figure with several panels.
    """
    figure = make_subplots(rows, columns, **spacing)
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
    figure.update_xaxes(axis)
    figure.update_yaxes(axis)
    family = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"
    return figure.update_layout(
        height=height,
        margin={"l": left, "r": 14, "t": top, "b": bottom},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": family, "size": 12, "color": INK},
        showlegend=False,
        hoverlabel={"font": {"size": 12}},
        dragmode=False,
    )


def add_line(
    figure: go.Figure,
    x: Iterable[float],
    y: Iterable[float],
    *,
    name: str,
    colour: str,
    width: float = 2,
    dash: str = "solid",
    shape: str = "linear",
    hover: str = "",
    **style: Any,
) -> None:
    """Add a line; a single point, which no line can show, is a mark.

    Args:
        dash: "solid", "dash" or "dot".
        shape: "linear", or "hv" for steps.
        hover: label at a point, such as "step %{x}: %{y:.1f} %"; "" for none.
        style: further properties of plotly's scatter, such as `opacity`, or `row` and `col` of a panel.
    """
    xs = list(x)
    figure.add_scatter(
        x=xs,
        y=list(y),
        mode="lines" if len(xs) > 1 else "markers",
        name=name,
        line={"color": colour, "width": width, "dash": dash, "shape": shape},
        marker={"size": 8, "color": colour, **mark("circle")},
        **_hover(hover),
        **style,
    )


def add_points(
    figure: go.Figure,
    x: Iterable[Any],
    y: Iterable[Any],
    *,
    name: str,
    colour: str,
    symbol: str = "circle",
    size: float | Sequence[float] = 9,
    opacity: float = 1,
    hover: str,
    **style: Any,
) -> None:
    """Add marks.

    Args:
        symbol: symbol that `legend` knows, such as "circle" or "circle-open".
        size: size in pixels, of all marks or of each.
        hover: label at a mark, such as "%{customdata}: %{y:.1f} %".
        style: further properties of plotly's scatter, such as `customdata`, `error_x`, or `text` for labels.
    """
    figure.add_scatter(
        x=list(x),
        y=list(y),
        mode="markers+text" if "text" in style else "markers",
        name=name,
        marker={"size": size, "color": colour, "opacity": opacity, **mark(symbol)},
        **_hover(hover),
        **style,
    )


def label(text: str, x: Any, y: Any, *, colour: str = INK, size: float = 11, **place: Any) -> dict[str, Any]:
    """An annotation without an arrow. Set all of a figure at once: one by one, plotly copies those before each time.

    Args:
        place: further properties of plotly's annotations, such as `xref`, `xanchor` or `yshift`.
    """
    return {"text": text, "x": x, "y": y, "font": {"color": colour, "size": size}, "showarrow": False, **place}


def way_colours(names: Sequence[str]) -> dict[str, str]:
    """Colours of ways to labelled images in all figures of a page: rust for the first, the others in turn."""
    return dict(zip(names, itertools.chain([RUST], itertools.cycle(_WAYS)), strict=False))


def in_figure(name: str) -> str:
    """Return a name that somebody gave for plotly, which reads HTML in texts."""
    return html.escape(name, quote=False)


def cut_name(name: str, longest: int = _LONGEST_NAME) -> str:
    """Return a name for a label, of `longest` letters at most."""
    return name if len(name) <= longest else f"{name[: longest - 1].rstrip()}…"


def room_for(names: Sequence[str], least: int) -> int:
    """Return the pixels beside an axis for these names: `least` at least, and 24 letters at most."""
    return max(least, 12 + 7 * max((min(len(name), _LONGEST_NAME) for name in names), default=0))


def name_axis(names: Sequence[str]) -> dict[str, Any]:
    """Settings of an axis with a tick for each of these different names; long ones are cut.

    Names may be numbers, which plotly would space by their values but for the type.
    """
    ticks = {"tickvals": [*map(in_figure, names)], "ticktext": [*map(in_figure, _cut(names))]}
    return {"type": "category", "showgrid": False, **ticks}


def _cut(names: Sequence[str]) -> list[str]:
    """Names of 24 letters at most: their beginnings, where these are the same their ends too, or else numbers."""
    starts = [cut_name(name) for name in names]
    cut = [
        f"{name[:9]}…{name[-14:]}" if starts.count(start) > 1 else start
        for name, start in zip(names, starts, strict=True)
    ]
    return [f"{text[:18]}… {place}" if cut.count(text) > 1 else text for place, text in enumerate(cut, start=1)]


def segment(x0: float, x1: float, y0: float, y1: float, *, colour: str = GRID, width: float = 2) -> dict[str, Any]:
    """A line between two places, below all marks; a shape of a figure's layout."""
    line = {"color": colour, "width": width}
    return {"type": "line", "x0": x0, "x1": x1, "y0": y0, "y1": y1, "line": line, "layer": "below"}


def _hover(text: str) -> dict[str, str]:
    return {"hovertemplate": f"{text}<extra></extra>"} if text else {"hoverinfo": "skip"}


def mark(symbol: str) -> dict[str, Any]:
    """A marker's shape; only hollow ones have an outline."""
    return {"symbol": symbol, "line": {"width": 2 if symbol.endswith("-open") else 0}}


def pc(share: float) -> float:
    return round(100 * share, 4)


def error_bars(means: Sequence[float], lows: Sequence[float], highs: Sequence[float], **style: Any) -> dict[str, Any]:
    """Intervals around means, all as shares, in percent."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [pc(high - mean) for mean, high in zip(means, highs, strict=True)],
        "arrayminus": [pc(mean - low) for mean, low in zip(means, lows, strict=True)],
        "thickness": 1.5,
        **style,
    }


def legend(figure: go.Figure) -> list[tuple[str, str, str]]:
    """(name, colour, shape: a class of the page's style) of each kind of mark in a figure."""
    return [_legend_entry(trace) for trace in figure.data if trace.name and trace.showlegend is not False]


_SHAPES: Mapping[str, str] = {
    "circle": "dot",
    "circle-open": "ring",
    "x-thin-open": "cross",
    "diamond": "diamond",
    "diamond-open": "diamond hollow",
    "line-ew-open": "line",
}
_STROKES: Mapping[str, str] = {"dash": "dash", "dot": "dots"}


def _legend_entry(trace: Any) -> tuple[str, str, str]:
    if trace.type == "bar":
        return trace.name, trace.marker.color, "square"
    if trace.mode == "lines":
        return trace.name, trace.line.color, _STROKES.get(trace.line.dash, "line")
    return trace.name, trace.marker.color or trace.line.color, _SHAPES.get(trace.marker.symbol, "dot")
