"""Views of a study's runs that the MLflow UI offers by name: filter, order, columns and charts.

The UI keeps such a view as a tag of the experiment, and opens it by the address of `view_route`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

TRIALS, FINALISTS = "trials", "finalists"
UI_PORT = 5000  # of `make ui`

_TAG = "mlflow.sharedViewState."
# Of the space `full`; the name has model and optimizer.
_PARAMETERS = ("learning_rate", "batch_size", "mix", "translate", "cutout")
_NAME, _NOTE = "attributes.`Run Name`", "attributes.`Description`"
_WIDTHS = {_NAME: 330, _NOTE: 320}  # pixels
_SECTION = "search"


def view_tags(now: int) -> dict[str, str]:
    """Return the tags of an experiment that hold its views; `now` is in milliseconds since 1970."""
    return {
        f"{_TAG}{key}": json.dumps({"name": name, "createdAt": now, "updatedAt": now, "state": json.dumps(state)})
        for key, (name, state) in _VIEWS.items()
    }


def view_route(experiment_id: str, view: str) -> str:
    """Return the address of a view within the UI."""
    return f"#/experiments/{experiment_id}/runs?viewStateShareKey={view}&workflowType=machine_learning"


def study_path(study: str) -> str:
    """Return the path under which `make ui` shows the trials of a study."""
    return f"/study/{quote(study)}"


def _column(kind: str, name: str) -> str:
    return f"{kind}.`{name}`"


def _view(*, only: str, metrics: Sequence[str], tags: Sequence[str]) -> dict[str, Any]:
    columns = [*(_column("metrics", name) for name in metrics), _NOTE]
    columns += [*(_column("params", name) for name in _PARAMETERS), *(_column("tags", name) for name in tags)]
    return {
        "searchFilter": only,
        "orderByKey": _column("metrics", "val/accuracy"),
        "orderByAsc": False,
        "selectedColumns": columns,
        "columnOrder": [_NAME, *columns],
        "columnWidths": _WIDTHS,
        "runsHiddenMode": "FIRST_20_RUNS",  # of the charts
        "compareRunCharts": _CHARTS,
        "compareRunSections": [
            {"uuid": _SECTION, "name": "Search", "display": True, "isReordered": True, "columns": len(_CHARTS)}
        ],
        "isAccordionReordered": True,  # else the UI sorts the sections by name
    }


def _chart(kind: str, **settings: object) -> dict[str, object]:
    return {"type": kind, "uuid": f"{_SECTION}-{kind}", "metricSectionId": _SECTION, "deleted": False, **settings}


_COORDINATES = ["model", "optimizer", "learning_rate", "batch_size"]
_CHARTS = [
    _chart("LINE", metricKey="val/accuracy", selectedMetricKeys=["val/accuracy"], isGenerated=True),
    _chart(
        "PARALLEL",
        selectedParams=_COORDINATES,
        selectedMetrics=["val/accuracy"],
        showAllRuns=True,
    ),
]
_VIEWS: Mapping[str, tuple[str, dict[str, Any]]] = {
    TRIALS: (
        "Trials by accuracy",
        _view(only="tags.stage = 'search'", metrics=["val/accuracy"], tags=["state"]),
    ),
    FINALISTS: (
        "Finalists",
        _view(
            only="tags.stage != 'search' AND tags.stage != 'study'",
            metrics=["val/accuracy", "test/accuracy"],
            tags=["source_trial"],
        ),
    ),
}
