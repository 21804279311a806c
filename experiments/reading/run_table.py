"""Runs of MLflow as a DataFrame, one row a run: through its client, or straight from the tables of its SQLite file.

The client takes half a minute for 10,000 runs, the tables two seconds; both give the same rows.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.entities import Run

# What MLflow calls a run's end, in the words of a study: for runs that lost their `state` tag.
STATES = {"FINISHED": "complete", "KILLED": "pruned", "FAILED": "failed", "RUNNING": "running"}

_TEXTS = (
    "tags.stage",
    "tags.champion",
    "tags.reason",
    "tags.seed",
    "tags.threads",
    "tags.device",
    "params.model",
)
_NUMBERS = (
    "metrics.val/accuracy",
    "metrics.test/accuracy",
    "metrics.cost/seconds",
    "metrics.cost/training_flops",
    "metrics.cost/epochs",
    "metrics.cost/images_per_second",
)
_FIRST = ("run_id", "state", "start", "end", "trial", "attempt", "source_trial", "seed")


def of_runs(runs: Sequence[Run]) -> pd.DataFrame:
    """The table of runs that a client found; see `results.Study` for its columns."""
    rows = [
        {
            "run_id": run.info.run_id,
            "status": run.info.status,
            "start_time": run.info.start_time,
            "end_time": run.info.end_time,
            **{f"tags.{k}": v for k, v in run.data.tags.items() if not k.startswith("mlflow.")},
            **{f"params.{k}": v for k, v in run.data.params.items()},
            **{f"metrics.{k}": v for k, v in run.data.metrics.items()},
        }
        for run in runs
    ]
    columns = dict.fromkeys(["run_id", "status", "start_time", "end_time", *(key for row in rows for key in row)])
    return _tidy(pd.DataFrame(rows, columns=list(columns)))


def of_sqlite(path: Path, parent: str) -> pd.DataFrame:
    """The table of the runs below `parent`.

    Raises:
        sqlite3.Error: the file has other tables than this version of MLflow makes.
    """
    below = "(SELECT run_uuid FROM tags WHERE key = 'mlflow.parentRunId' AND value = ?)"
    with closing(sqlite3.connect(path)) as database:
        runs = pd.DataFrame(
            database.execute(
                "SELECT run_uuid, status, start_time, end_time FROM runs "
                f"WHERE lifecycle_stage = 'active' AND run_uuid IN {below}",
                (parent,),
            ).fetchall(),
            columns=["run_id", "status", "start_time", "end_time"],
        )
        tables = [runs.set_index("run_id")]
        for table, value, more in (
            ("tags", "value", "AND key NOT LIKE 'mlflow.%'"),
            ("params", "value", ""),
            ("latest_metrics", "CASE WHEN is_nan THEN NULL ELSE value END", ""),
        ):
            rows = database.execute(
                f"SELECT run_uuid, key, {value} FROM {table} WHERE run_uuid IN {below} {more}", (parent,)
            ).fetchall()
            tables.append(_wide(rows, table.removeprefix("latest_")))
    wide = pd.concat(tables, axis=1).reindex(runs["run_id"])
    return _tidy(wide.reset_index(names="run_id"))


def _wide(rows: Sequence[tuple[str, str, Any]], prefix: str) -> pd.DataFrame:
    """One row a run and one column a key, of rows (run, key, value)."""
    if not rows:
        return pd.DataFrame()
    runs, keys, values = zip(*rows, strict=True)
    row, run_ids = pd.factorize(np.asarray(runs, dtype=object))
    column, names = pd.factorize(np.asarray(keys, dtype=object))
    cells = np.full((len(run_ids), len(names)), None, dtype=object)
    cells[row, column] = np.asarray(values, dtype=object)
    return pd.DataFrame(cells, index=run_ids, columns=[f"{prefix}.{name}" for name in names])


def _tidy(table: pd.DataFrame) -> pd.DataFrame:
    """Numbers as floats, the columns that the report asks for, oldest attempt first."""
    table = table.reindex(columns=list(dict.fromkeys([*table, *_TEXTS, *_NUMBERS])))
    texts = sorted(c for c in table if c.startswith(("tags.", "params.")))
    numbers = sorted(c for c in table if c.startswith("metrics."))
    tags: dict[str, pd.Series[Any]] = {
        name: table[f"tags.{name}"] if f"tags.{name}" in table else pd.Series(None, table.index, dtype=object)
        for name in ("state", "trial", "attempt", "source_trial", "seed")
    }
    if "params.seed" in table:
        tags["seed"] = tags["seed"].where(tags["seed"].notna(), table["params.seed"])
    first = {
        "run_id": table["run_id"],
        "state": tags["state"].where(tags["state"].notna(), table["status"].map(STATES).fillna("running")),
        "start": _times(table["start_time"]),
        "end": _times(table["end_time"]),
        **{name: pd.to_numeric(tags[name], errors="coerce").astype(float) for name in _FIRST[4:]},
    }
    plain = table[texts].astype(object)
    whole = pd.concat(
        [pd.DataFrame(first), plain.where(plain.notna(), None), table[numbers].astype(float)],
        axis=1,
    )
    return whole.sort_values(["trial", "attempt", "start", "run_id"], kind="stable").reset_index(drop=True)


def _times(milliseconds: pd.Series[Any]) -> pd.Series[Any]:
    return pd.Series([time_of(v) for v in milliseconds], milliseconds.index, dtype=object)


def time_of(milliseconds: float | None) -> datetime | None:
    """A time of MLflow in UTC."""
    known = milliseconds is not None and milliseconds == milliseconds
    return datetime.fromtimestamp(milliseconds / 1000, UTC) if known else None  # type: ignore[operator]
