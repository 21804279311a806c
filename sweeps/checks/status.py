"""How far a study has come, read from its store without changing anything there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import optuna
from mlflow import MlflowClient
from mlflow.entities import Run
from optuna.trial import TrialState

from cifar_core.errors import first_line
from sweeps.console import best_trial, percent
from sweeps.lock import holder
from sweeps.store import Store, StoreError
from sweeps.study import UNOPENED, begun
from sweeps.tracking.mlflow_client import answering, every_run
from sweeps.tracking.mlflow_queue import waiting


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """A study as it stands."""

    study: str
    holder: str | None  # the process that is running it, if any
    settings: Mapping[str, str]  # what cannot change within it
    trials: Mapping[TrialState, int]
    begun: int
    best: str | None
    confirmations: Mapping[str, int]  # runs by state
    tested: tuple[float, ...]  # test accuracies of the champion's runs
    checkpoints: tuple[str, ...]  # runs that have some
    waiting: int  # entries of the journal that MLflow has not got

    def rows(self) -> dict[str, str]:
        """As a block of two columns for people."""
        trials, running = self.trials, self.holder is not None
        unfinished = trials[TrialState.RUNNING]
        states = {
            "complete": trials[TrialState.COMPLETE],
            "pruned": trials[TrialState.PRUNED],
            "failed": trials[TrialState.FAIL],
            "running" if running else "cut off, to be gone on with": unfinished,
            "queued": trials[TrialState.WAITING],
        }
        rows = {
            "study": self.study,
            "state": f"run by {self.holder}" if running else "not running",
            "settings": ", ".join(f"{name} {value}" for name, value in self.settings.items()) or "none recorded",
            "trials": f"{self.begun} begun: " + ", ".join(f"{n} {name}" for name, n in states.items() if n),
        }
        if not self.begun:
            rows["trials"] = "none yet"
        if self.best is not None:
            rows["best"] = self.best
        if self.confirmations:
            rows["confirmation"] = ", ".join(f"{count} {state}" for state, count in sorted(self.confirmations.items()))
        if self.tested:
            rows["test"] = ", ".join(percent(accuracy, 2) for accuracy in self.tested)
        if self.checkpoints:
            rows["checkpoints"] = f"of {', '.join(self.checkpoints)}"
        if self.waiting:
            rows["journal"] = f"{self.waiting} {'entry waits' if self.waiting == 1 else 'entries wait'} for MLflow"
        return rows


def read_status(store: Store, study: str) -> Status:
    """
    Raises:
        StoreError: the store holds no such study.
    """
    stored = load_study(store, study)
    runs = runs_of(mlflow_client(store), study)
    folder = store.checkpoints(study, "x").parent
    return Status(
        study=study,
        holder=holder(store.lease(study)),
        settings={
            name: str(stored.user_attrs[name]) for name in ("space", "preset", "seed") if name in stored.user_attrs
        },
        trials=Counter(trial.state for trial in stored.get_trials(deepcopy=False)),
        begun=begun(stored),
        best=_best(stored),
        confirmations=Counter(
            run.data.tags.get("state", "unknown") for run in runs if run.data.tags.get("stage") == "confirm"
        ),
        tested=tuple(run.data.metrics["test/accuracy"] for run in runs if "test/accuracy" in run.data.metrics),
        checkpoints=tuple(sorted(path.name for path in folder.glob("*") if any(path.iterdir()))),
        waiting=waiting(store.journals(study)),
    )


def _best(study: optuna.Study) -> str | None:
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not complete:
        return None
    best = study.best_trial
    model = best.user_attrs.get("recipe", {}).get("model", "unknown")
    return best_trial(study.best_value, best.number, model)


def load_study(store: Store, study: str) -> optuna.Study:
    """
    Raises:
        StoreError: the store holds no such study, or cannot be read.
    """
    store.check()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        return optuna.load_study(study_name=study, storage=store.storage_url)
    except KeyError as error:
        names = ", ".join(sorted(optuna.get_all_study_names(store.storage_url))) or "none"
        raise StoreError(f"--study must be one that the store holds ({names}), but got {study!r}") from error
    except UNOPENED as error:
        raise StoreError(f"the Optuna storage must open, but {store.storage_url} gave: {first_line(error)}") from error


def mlflow_client(store: Store) -> MlflowClient:
    """
    Raises:
        StoreError: MLflow does not know such a store, or cannot reach it.
    """
    with answering(store.tracking_uri):
        return MlflowClient(store.tracking_uri)


def runs_of(client: MlflowClient, study: str) -> list[Run]:
    """Every run of a study, its own included; none where MLflow does not know it.

    Raises:
        StoreError: MLflow does not answer.
    """
    with answering(client.tracking_uri):
        experiment = client.get_experiment_by_name(study)
        return every_run(client, [experiment.experiment_id]) if experiment is not None else []
