"""Find the runs that a name on a command line stands for."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence

from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion

from experiments.reading.study_reader import StudyReader
from sweeps.store import StoreError
from sweeps.studies.keys import STUDY_KEY
from sweeps.tracking.mlflow_client import answering
from sweeps.tracking.registry import CHAMPION, champions
from sweeps.words import did_you_mean, shortened

LETTERS = 4  # at least, of the beginning of an id


def runs_named(wanted: str, reader: StudyReader) -> list[Run]:
    """Return the runs that `wanted` names: the champion's, the newest STUDY/KEY, or all with this name or id prefix.

    Raises:
        StoreError: the champion is wanted, but there is none, or several; or MLflow does not answer.
    """
    if wanted == CHAMPION:
        return [reader.run(str(champion_of(reader).run_id))]
    study, _, key = wanted.rpartition("/")
    if runs := _matching(reader, "tags.key", "=", key, study):
        return [max(runs, key=lambda run: (run.info.start_time, run.info.run_id))]
    runs = _matching(reader, "attributes.run_name", "=", wanted)
    if re.fullmatch(rf"[0-9a-fA-F]{{{LETTERS},32}}", wanted):
        runs += _matching(reader, "attributes.run_id", "LIKE", f"{wanted.lower()}%")
    return list({run.info.run_id: run for run in runs}.values())


def champion_of(reader: StudyReader, model: str | None = None, *, has_option: bool = False) -> ModelVersion:
    """Return the version of a registered model with the alias `champion`.

    Args:
        model: name of the registered model; None takes the only one.
        has_option: True if the command has `--model`; others choose by the id of a run.

    Raises:
        StoreError: there is none, or there are several, or MLflow does not answer.
    """
    with answering(reader.store.tracking_uri):
        found = champions(reader.client)
    if not found:
        raise StoreError(f"a store must hold a finished study to have a champion, but {reader.store.root} holds none")
    chosen = [version for version in found if model in (None, version.name)]
    if len(chosen) != 1:
        choices = [f"--model {shlex.quote(v.name)}" if has_option else f"{v.run_id} ({v.name})" for v in found]
        options = " or ".join(choices) + (" (make serve ARGS='--model NAME')" if has_option else "")
        given = f"--model {model}" if model is not None else "none"
        raise StoreError(f"the champion must be chosen by {options}, but got {given}")
    return chosen[0]


def suggestion(wanted: str, reader: StudyReader, known: Sequence[str]) -> str:
    """Return the end of a message that no run is `wanted`: the nearest of `known`, or of the keys if it has a study."""
    study = wanted.rpartition("/")[0]
    if study in reader.experiments.values():
        keys = {run.data.tags["key"] for run in reader.runs("tags.key LIKE '%'", study)}
        known = [f"{study}/{key}" for key in sorted(keys - {STUDY_KEY})] or known
    return did_you_mean(wanted, known) if known else ""


def candidates(runs: Iterable[Run], reader: StudyReader) -> str:
    """Say which runs a name may stand for, as "ID (NAME in STUDY)", by id."""
    by_id = sorted((run.info.run_id, run.info.run_name, reader.experiments[run.info.experiment_id]) for run in runs)
    return shortened([f"{run_id} ({name} in {study})" for run_id, name, study in by_id])


def _matching(reader: StudyReader, field: str, operator: str, value: str, experiment: str | None = None) -> list[Run]:
    quote = '"' if "'" in value else "'"
    if not value or quote in value:  # MLflow's filters have no way to write both
        return []
    return reader.runs(f"{field} {operator} {quote}{value}{quote}", experiment)
