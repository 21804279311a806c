"""The runs that a name on a command line stands for, their recipes and their networks."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion

from cifar_core.errors import UserError
from cifar_core.recipe import Recipe
from cifar_core.transfer.adapted import LoadedNetwork, load_network
from experiments.reading.study_reader import StudyReader
from sweeps.store import Store, StoreError
from sweeps.studies.keys import STUDY_KEY
from sweeps.tracking.mlflow_client import answering
from sweeps.tracking.registry import CHAMPION, champions, registered_runs
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
        if not found and registered_runs(reader.client):  # MLflow drops the alias with its version
            other = ", and --model NAME/VERSION does without it" if has_option else ""
            raise StoreError(
                f"a registered model must have the alias champion, but none in {reader.store.root} has it any more; "
                f"the command of a study, given again, sets it{other}"
            )
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


@dataclass(frozen=True, slots=True)
class KnownRun:
    """A run of the store, and the file of its weights if it kept them."""

    run_id: str
    name: str
    experiment: str
    weights: Path

    @property
    def key(self) -> str:
        """Name of the run within the study, such as trial-46."""
        return self.weights.stem

    @property
    def kept(self) -> bool:
        return self.weights.is_file()


def network_of(wanted: str, store: Store) -> LoadedNetwork:
    """Load the network of the run `wanted`, trained from nothing or adapted.

    Raises:
        UserError: no run of this name, several, or one without weights.
        StoreError: the store cannot be read.
        CheckpointError: the weights are damaged, or of another version.
    """
    reader = StudyReader(store)
    run = run_named(wanted, reader)
    if not run.kept:
        each = (_known(run, reader) for run in reader.runs())
        kept = list(dict.fromkeys(f"{known.experiment}/{known.key}" for known in each if known.kept))
        ways = "confirmations, finals, reproductions and trials with --keep-weights do"
        which = f"weights were kept by {shortened(kept)}" if kept else f"no run has kept its weights yet; {ways}"
        raise UserError(f"RUN must be a run that kept its weights, but {run.name!r} ({run.run_id}) did not; {which}")
    return load_network(run.weights)


def recipe_of(run_id: str, reader: StudyReader) -> Recipe:
    """Load the recipe of a run.

    Raises:
        StoreError: the store lacks it.
    """
    text = reader.artifact(run_id, "recipe.toml")
    if text is None:
        reader.require_artifacts(reader.run(run_id))
        raise StoreError(f"a run must have the artifact recipe.toml, but {run_id} has none")
    return Recipe.from_toml(text.decode(errors="replace"))


def run_named(wanted: str, reader: StudyReader) -> KnownRun:
    """Return the run with this id, STUDY/KEY or name, the only one whose id begins with it, or the champion's.

    Raises:
        UserError: there is none, or more than one.
    """
    found = runs_named(wanted, reader)
    if not found:
        raise UserError(
            f"RUN must be a run's id, at least {LETTERS} of its first letters, STUDY/KEY (such as quick-full/trial-3), "
            f"a run's name, or champion, but no run is {wanted!r}{suggestion(wanted, reader, reader.studies())}"
        )
    if len(found) > 1:
        raise UserError(f"RUN must be one run, but {wanted!r} may be {candidates(found, reader)}")
    return _known(found[0], reader)


def _known(run: Run, reader: StudyReader) -> KnownRun:
    experiment = reader.experiments[run.info.experiment_id]
    study = run.data.tags.get("study", experiment)  # which keeps its name when the experiment gets another one
    weights = reader.store.weights(study, run.data.tags.get("key", STUDY_KEY))
    return KnownRun(run.info.run_id, run.info.run_name or "", experiment, weights)
