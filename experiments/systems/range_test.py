"""LR range test as a run in MLflow, and its curve as CSV and as an interactive figure."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime
from urllib.parse import quote

import pandas as pd
import torch

from cifar_core.data import Splits
from cifar_core.hardware import Hardware
from cifar_core.lr_finder import RangeTest, RangeTestError, range_test
from cifar_core.recipe import Recipe
from experiments.pages.plots import BLUE, RUST, add_line, canvas, label
from sweeps.store import RANGE_TESTS_EXPERIMENT, Store
from sweeps.tracking.provenance import provenance
from sweeps.tracking.tracker import MlflowTracker, RunLabel


def run_range_test(
    name: str,
    recipe: Recipe,
    data: Splits,
    hardware: Hardware,
    store: Store,
    *,
    low: float,
    high: float,
    steps: int,
    say: Callable[[str], None],
) -> tuple[RangeTest, int]:
    """Run the range test of a recipe and log it to MLflow.

    Returns:
        the range test, and the number of entries that MLflow still lacks.

    Raises:
        RangeTestError: the test found no rate.
        StoreError: another process holds the store's range tests.
    """
    tracker = MlflowTracker(store, RANGE_TESTS_EXPERIMENT, source="experiments/lr_find.py", say=say)
    tags = provenance(hardware, torch.get_num_threads())
    parent = RunLabel(key="study", name=RANGE_TESTS_EXPERIMENT, tags={"stage": "range-tests", **tags}, params={})
    tracker.open_study(parent)
    key = f"{quote(name, safe='')}-{datetime.now(UTC).isoformat(timespec='seconds')}"
    tracker.begin(
        RunLabel(
            key=key,
            name=f"range test of {name}",
            tags={"stage": "range-test", **tags},
            params={**recipe.to_dict(), "low": low, "high": high, "steps": steps},
            files={"recipe.toml": recipe.to_toml().encode()},
        )
    )
    state, reason = "failed", ""
    try:
        found = range_test(recipe, data, hardware, low=low, high=high, steps=steps)
        log_range_test(tracker, key, found)
        state = "complete"
    except RangeTestError as error:
        reason = str(error)
        raise
    except KeyboardInterrupt:
        state, reason = "interrupted", "stopped by the user"
        raise
    finally:
        tracker.end(key, state, reason=reason)
        tracker.end_study("finished" if state == "complete" else state, {})
        lacking = tracker.close()
    return found, lacking


def log_range_test(tracker: MlflowTracker, key: str, found: RangeTest) -> None:
    """Log the suggestion, the curve and its figure to the run `key`."""
    table = pd.DataFrame({"learning_rate": found.rates, "smoothed_loss_nats": found.losses})
    files = {"range_test/curve.csv": table.to_csv(index=False).encode(), "range_test/curve.html": draw(found)}
    tracker.attach(key, files, {"range_test/suggestion": found.suggestion})


def draw(found: RangeTest) -> bytes:
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
