"""The curve of an LR range test, as CSV in MLflow and as an interactive figure."""

from __future__ import annotations

import math

import pandas as pd

from cifar_core.lr_finder import RangeTest
from experiments.pages.plots import BLUE, RUST, add_line, canvas, label
from sweeps.tracking.tracker import MlflowTracker


def log_range_test(tracker: MlflowTracker, key: str, found: RangeTest) -> bytes:
    """Log the suggestion, the curve and its figure to the run `key`; return the figure, an HTML file."""
    figure = _draw(found)
    table = pd.DataFrame({"learning_rate": found.rates, "smoothed_loss_nats": found.losses})
    files = {"range_test/curve.csv": table.to_csv(index=False).encode(), "range_test/curve.html": figure}
    tracker.attach(key, files, {"range_test/suggestion": found.suggestion})
    return figure


def _draw(found: RangeTest) -> bytes:
    """Draw the curve with the suggestion marked, as an HTML file that opens offline."""
    figure = canvas(height=460, top=70)
    hover = "learning rate %{x:.3g}<br>loss %{y:.3f}"
    add_line(figure, found.rates, found.losses, name="loss", colour=BLUE, hover=hover)
    figure.add_vline(x=found.suggestion, line={"color": RUST, "dash": "dash", "width": 1.5})
    place = math.log10(found.suggestion)  # an annotation of a logarithmic axis has the logarithm of its place
    text = f"suggested: {found.suggestion:.3g}"
    figure.update_layout(
        title="LR range test: the loss falls fastest at the mark",
        annotations=[label(text, place, 1, colour=RUST, size=12, yref="paper", yanchor="bottom")],
    )
    figure.update_xaxes(type="log", dtick=1, title="learning rate (log scale)")
    figure.update_yaxes(title="training loss, smoothed (nats per image)")
    page: str = figure.to_html(include_plotlyjs=True, div_id="range-test", config={"displayModeBar": False})
    return page.encode()
