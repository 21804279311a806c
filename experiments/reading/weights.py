"""Find a run by its id or name, and load its network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from cifar_core.checkpoint import load_weights, read_data_set
from cifar_core.data.data_set import DataSet
from cifar_core.errors import UserError
from cifar_core.recipe import Recipe
from experiments.reading.studies import StudyReader
from sweeps.store import Store, StoreError
from sweeps.tracking.mlflow_client import STUDY_KEY, answering, every_run
from sweeps.validation import shortened

LETTERS = 4  # at least, of the beginning of an id


@dataclass(frozen=True, slots=True)
class KnownRun:
    """A run of the store, and the file of its weights if it kept them."""

    run_id: str
    name: str
    experiment: str
    weights: Path

    @property
    def kept(self) -> bool:
        return self.weights.is_file()


def load_network(wanted: str, store: Store) -> tuple[nn.Module, Recipe, DataSet]:
    """Load the network of the run `wanted` on the CPU, its recipe, and the data set that it was trained on.

    Raises:
        UserError: no run of this name, several, or one without weights.
        StoreError: the store cannot be read, or lacks the recipe.
        CheckpointError: the weights are damaged.
    """
    reader = StudyReader(store)
    runs = _known_runs(reader, store)
    run = find_run(wanted, runs)
    if not run.kept:
        raise UserError(f"run {run.name!r} ({run.run_id}) kept no weights: {_those_with_weights(runs)}")
    text = reader.artifact(run.run_id, "recipe.toml")
    if text is None:
        raise StoreError(f"a run must have the artifact recipe.toml, but {run.run_id} has none")
    recipe = Recipe.from_toml(text.decode(errors="replace"))
    return load_weights(recipe, run.weights), recipe, read_data_set(run.weights)


def find_run(wanted: str, runs: Sequence[KnownRun]) -> KnownRun:
    """Return the run with this id or name, or the only one whose id begins with it.

    Raises:
        UserError: there is none, or more than one.
    """
    found = [run for run in runs if run.run_id == wanted] or [
        run for run in runs if run.name == wanted or (len(wanted) >= LETTERS and run.run_id.startswith(wanted))
    ]
    if not found:
        raise UserError(
            f"RUN must be a run's id, at least {LETTERS} of its first letters, or its name, but no run is {wanted!r}; "
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
        weights = store.weights(study, run.data.tags.get("key", STUDY_KEY))
        known.append(KnownRun(run.info.run_id, run.info.run_name or "", experiment, weights))
    return known


def _those_with_weights(runs: Sequence[KnownRun]) -> str:
    kept = [f"{run.name} ({run.run_id[:8]})" for run in runs if run.kept]
    if not kept:
        return "no run has kept its weights yet; confirmed runs, reproductions and trials with --keep-weights do"
    return f"weights were kept by {shortened(kept)}"
