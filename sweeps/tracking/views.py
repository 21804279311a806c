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
_NAME, _NOTE = "attributes.`Run Name`", "attributes.`Description`"
_WIDTHS = {_NAME: 330, _NOTE: 320}  # pixels
_SECTION = "search"


def view_tags(stage: str, now: int) -> dict[str, str]:
    """Return the tags of an experiment that hold its views.

    Args:
        stage: tag of the study's own run, a key of `VIEWS`.
        now: milliseconds since 1970.
    """
    return {
        f"{_TAG}{key}": json.dumps({"name": name, "createdAt": now, "updatedAt": now, "state": json.dumps(state)})
        for key, (name, state) in VIEWS[stage].items()
    }


def view_route(experiment_id: str, view: str) -> str:
    """Return the address of a view within the UI."""
    return f"#/experiments/{experiment_id}/runs?viewStateShareKey={view}&workflowType=machine_learning"


def study_path(study: str) -> str:
    """Return the path under which `make ui` shows the trials of a study."""
    return f"/study/{quote(study)}"


def _column(kind: str, name: str) -> str:
    return f"{kind}.`{name}`"


def _view(
    *, only: str, metrics: Sequence[str], params: Sequence[str], tags: Sequence[str], coordinates: Sequence[str]
) -> dict[str, Any]:
    columns = [*(_column("metrics", name) for name in metrics), _NOTE]
    columns += [*(_column("params", name) for name in params), *(_column("tags", name) for name in tags)]
    charts = [
        _chart("LINE", metricKey="val/accuracy", selectedMetricKeys=["val/accuracy"], isGenerated=True),
        _chart(
            "PARALLEL",
            selectedParams=list(coordinates),
            selectedMetrics=["val/accuracy"],
            showAllRuns=True,
        ),
    ]
    return {
        "searchFilter": only,
        "orderByKey": _column("metrics", "val/accuracy"),
        "orderByAsc": False,
        "selectedColumns": columns,
        "columnOrder": [_NAME, *columns],
        "columnWidths": _WIDTHS,
        "runsHiddenMode": "FIRST_20_RUNS",  # of the charts
        "compareRunCharts": charts,
        "compareRunSections": [
            {"uuid": _SECTION, "name": "Search", "display": True, "isReordered": True, "columns": len(charts)}
        ],
        "isAccordionReordered": True,  # else the UI sorts the sections by name
    }


def _chart(kind: str, **settings: object) -> dict[str, object]:
    return {"type": kind, "uuid": f"{_SECTION}-{kind}", "metricSectionId": _SECTION, "deleted": False, **settings}


def _views(
    name: str, study: str, trial: str, params: Sequence[str], coordinates: Sequence[str]
) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return the names and states of the views of a study, by key.

    Args:
        name: of the view of its trials.
        study, trial: stages of its own run, and of its trials.
        params: columns; the name of a run has others.
    """
    shown = {"params": params, "coordinates": coordinates}
    trials = _view(only=f"tags.stage = '{trial}'", metrics=["val/accuracy"], tags=["state"], **shown)
    finalists = _view(
        only=f"tags.stage != '{trial}' AND tags.stage != '{study}'",
        metrics=["val/accuracy", "test/accuracy"],
        tags=["source_trial"],
        **shown,
    )
    return {TRIALS: (name, trials), FINALISTS: ("Finalists", finalists)}


# By the stage of the study's own run.
VIEWS: Mapping[str, Mapping[str, tuple[str, dict[str, Any]]]] = {
    "study": _views(
        "Trials by accuracy",
        "study",
        "search",
        params=["learning_rate", "batch_size", "mix", "translate", "cutout"],  # of the space `full`
        coordinates=["model", "optimizer", "learning_rate", "batch_size"],
    ),
    "adapted-study": _views(
        "Heads by accuracy",
        "adapted-study",
        "adapt",
        params=["mirrored"],
        coordinates=["scaling", "penalty", "mirrored"],
    ),
}
