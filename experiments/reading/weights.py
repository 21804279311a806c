"""The networks of runs: their files of weights, and what these hold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mlflow.entities import Run

from cifar_core.errors import UserError
from cifar_core.recipe import Recipe
from cifar_core.transfer.adapted import LoadedNetwork, load_network
from experiments.reading.named_runs import LETTERS, candidates, runs_named, suggestion
from experiments.reading.study_reader import StudyReader
from sweeps.store import Store, StoreError
from sweeps.studies.keys import STUDY_KEY
from sweeps.words import shortened


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
