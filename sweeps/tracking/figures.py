"""Figures of a run that need no curve, as tags in place of metrics.

The MLflow UI draws a chart for each metric. Costs and accuracies by class would be dozens of charts with a single bar,
above the curves. So a tag holds the figures of a group: `figures.cost` is `{"seconds": 35.2, ...}` for `cost/seconds`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping

from mlflow.entities import Run

_GROUPS = ("cost", "study", "val_class", "val_group", "test_class", "test_group")  # the first part of a metric's name
_TAG = "figures."
_NAMES = 50  # in a tag, of which MLflow keeps 8,000 characters; further tags are numbered


def split_figures(metrics: Mapping[str, float]) -> tuple[dict[str, float], dict[str, str]]:
    """Return the metrics that have curves, and the others as tags."""
    curves, groups = dict[str, float](), defaultdict[str, dict[str, float]](dict)
    for name, value in metrics.items():
        group, _, rest = name.partition("/")
        if group in _GROUPS:
            groups[group][rest] = value
        else:
            curves[name] = value
    tags = {}
    for group, values in groups.items():
        rows = list(values.items())
        for start in range(0, len(rows), _NAMES):
            number = f" {1 + start // _NAMES}" if start else ""
            part = dict(rows[start : start + _NAMES])
            tags[f"{_TAG}{group}{number}"] = json.dumps(part, ensure_ascii=False)
    return curves, tags


def metrics_of(run: Run) -> dict[str, float]:
    """Return the metrics of a run, with the figures in its tags."""
    return run.data.metrics | figures_of(run.data.tags)


def figures_of(tags: Mapping[str, str]) -> dict[str, float]:
    """Return the figures in the tags of a run, with the names of metrics."""
    return {name: value for tag, text in tags.items() for name, value in figures_in(tag, text).items()}


def figures_in(tag: str, text: str) -> dict[str, float]:
    """Return the figures in one tag, with the names of metrics; a tag that holds none, or is damaged, has none."""
    if not tag.startswith(_TAG):
        return {}
    group = tag.removeprefix(_TAG).partition(" ")[0]
    try:
        return {f"{group}/{name}": float(value) for name, value in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError):
        return {}
