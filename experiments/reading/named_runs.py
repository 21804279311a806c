"""Find the runs that a name on a command line stands for."""

from __future__ import annotations

import re
from collections.abc import Iterable

from mlflow.entities import Run

from cifar_core.errors import UserError
from experiments.reading.studies import StudyReader
from sweeps.tracking.mlflow_client import answering
from sweeps.tracking.registry import CHAMPION, champions
from sweeps.words import shortened

LETTERS = 4  # at least, of the beginning of an id


def runs_named(wanted: str, reader: StudyReader) -> list[Run]:
    """Return the runs that `wanted` names: the champion's, the newest STUDY/KEY, or all with this name or id prefix.

    Raises:
        UserError: the champion is wanted, but there is none, or several.
        StoreError: MLflow does not answer.
    """
    if wanted == CHAMPION:
        return [reader.run(_champion(reader))]
    study, _, key = wanted.rpartition("/")
    if runs := _matching(reader, "tags.key", "=", key, study):
        return [max(runs, key=lambda run: (run.info.start_time, run.info.run_id))]
    runs = _matching(reader, "attributes.run_name", "=", wanted)
    if re.fullmatch(rf"[0-9a-fA-F]{{{LETTERS},32}}", wanted):
        runs += _matching(reader, "attributes.run_id", "LIKE", f"{wanted.lower()}%")
    return list({run.info.run_id: run for run in runs}.values())


def candidates(runs: Iterable[Run], reader: StudyReader) -> str:
    """Say which runs a name may stand for, as "ID (NAME in STUDY)", by id."""
    by_id = sorted((run.info.run_id, run.info.run_name, reader.experiments[run.info.experiment_id]) for run in runs)
    return shortened([f"{run_id} ({name} in {study})" for run_id, name, study in by_id])


def _matching(reader: StudyReader, field: str, operator: str, value: str, experiment: str | None = None) -> list[Run]:
    quote = '"' if "'" in value else "'"
    if not value or quote in value:  # MLflow's filters have no way to write both
        return []
    return reader.runs(f"{field} {operator} {quote}{value}{quote}", experiment)


def _champion(reader: StudyReader) -> str:
    """Return the id of the run whose network the alias `champion` of the model registry names."""
    with answering(reader.store.tracking_uri):
        found = champions(reader.client)
    if len(found) != 1:
        several = ", ".join(f"{version.run_id} of {version.name}" for version in found)
        none = "no champion is registered yet: the end of a study registers one"
        raise UserError(f"'champion' must be one run, but may be {several}" if found else none)
    return str(found[0].run_id)
