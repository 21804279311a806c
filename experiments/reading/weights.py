"""Find a run by its id or name, and load its network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cifar_core.errors import UserError
from cifar_core.recipe import Recipe
from cifar_core.transfer.adapted import LoadedNetwork, load_network
from experiments.reading.studies import StudyReader
from sweeps.store import Store, StoreError
from sweeps.tracking.mlflow_client import STUDY_KEY, answering, every_run
from sweeps.tracking.registry import CHAMPION, champions
from sweeps.words import shortened

LETTERS = 4  # at least, of the beginning of an id


@dataclass(frozen=True, slots=True)
class KnownRun:
    """A run of the store, and the file of its weights if it kept them."""

    run_id: str
    name: str
    experiment: str
    weights: Path

    @property
    def key(self) -> str:
        """Its name within the study, as trial-46."""
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
    run = run_named(wanted, reader, store)
    if not run.kept:
        kept = _those_with_weights(_known_runs(reader, store))
        raise UserError(f"run {run.name!r} ({run.run_id}) kept no weights: {kept}")
    return load_network(run.weights)


def recipe_of(run_id: str, reader: StudyReader) -> Recipe:
    """Load the recipe of a run.

    Raises:
        StoreError: the store lacks it.
    """
    text = reader.artifact(run_id, "recipe.toml")
    if text is None:
        raise StoreError(f"a run must have the artifact recipe.toml, but {run_id} has none")
    return Recipe.from_toml(text.decode(errors="replace"))


def champion_run(reader: StudyReader) -> str:
    """Return the id of the run whose network the alias `champion` of the model registry names.

    Raises:
        UserError: no champion is registered, or those of several data sets are.
    """
    with answering(reader.client.tracking_uri):
        found = champions(reader.client)
    if len(found) != 1:
        several = ", ".join(f"{version.run_id} of {version.name}" for version in found)
        none = "no champion is registered yet: the end of a study registers one"
        raise UserError(f"'champion' must be one run, but may be {several}" if found else none)
    return str(found[0].run_id)


def run_named(wanted: str, reader: StudyReader, store: Store) -> KnownRun:
    """Return the run with this id, STUDY/KEY or name, the only one whose id begins with it, or the champion's.

    Raises:
        UserError: there is none, or more than one.
    """
    return find_run(champion_run(reader) if wanted == CHAMPION else wanted, _known_runs(reader, store))


def find_run(wanted: str, runs: Sequence[KnownRun]) -> KnownRun:
    """Return the run with this id, STUDY/KEY or name, or the only one whose id begins with it.

    Raises:
        UserError: there is none, or more than one.
    """
    found = [run for run in runs if wanted in (run.run_id, f"{run.experiment}/{run.key}")] or [
        run for run in runs if run.name == wanted or (len(wanted) >= LETTERS and run.run_id.startswith(wanted))
    ]
    if not found:
        raise UserError(
            f"RUN must be a run's id, at least {LETTERS} of its first letters, STUDY/KEY (as demo/trial-3), a run's "
            f"name, or champion, but no run is {wanted!r}; "
            f"{_those_with_weights(runs)}"
        )
    if len(found) > 1:
        several = shortened([f"{run.run_id} ({run.name} in {run.experiment})" for run in found])
        raise UserError(f"RUN must be one run, but {wanted!r} may be {several}")
    return found[0]


def _known_runs(reader: StudyReader, store: Store) -> list[KnownRun]:
    """Return all runs of the store, the most recent first."""
    with answering(store.tracking_uri):
        runs = every_run(reader.client, list(reader.experiments))
    known = []
    for run in runs:
        experiment = reader.experiments[run.info.experiment_id]
        study = run.data.tags.get("study", experiment)  # which keeps its name when the experiment gets another one
        key = run.data.tags.get("key", STUDY_KEY)
        known.append(KnownRun(run.info.run_id, run.info.run_name or "", experiment, store.weights(study, key)))
    return known


def _those_with_weights(runs: Sequence[KnownRun]) -> str:
    kept = [f"{run.name} ({run.run_id[:8]})" for run in runs if run.kept]
    if not kept:
        return "no run has kept its weights yet; confirmed runs, reproductions and trials with --keep-weights do"
    return f"weights were kept by {shortened(kept)}"
