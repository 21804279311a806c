"""Status of a study, read from its store without changing anything there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import optuna
from optuna.trial import TrialState

from sweeps.console import best_trial, percent
from sweeps.lock import holder
from sweeps.store import Store
from sweeps.study import load_study, started_trials
from sweeps.tracking.mlflow_client import connect, runs_of
from sweeps.tracking.mlflow_queue import waiting


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """Status of a study."""

    study: str
    holder: str | None  # the process that runs it, if any
    settings: Mapping[str, str]  # that cannot change within the study
    trials: Mapping[TrialState, int]
    started: int
    best: str | None
    confirmations: Mapping[str, int]  # runs by state
    tested: tuple[float, ...]  # test accuracies of the champion's runs
    checkpoints: tuple[str, ...]  # keys of runs that have some
    waiting: int  # entries of the queue that MLflow lacks

    def rows(self) -> dict[str, str]:
        """Return a table of two columns for people."""
        trials, running = self.trials, self.holder is not None
        states = {
            "complete": trials[TrialState.COMPLETE],
            "pruned": trials[TrialState.PRUNED],
            "failed": trials[TrialState.FAIL],
            "running" if running else "interrupted": trials[TrialState.RUNNING],
            "queued": trials[TrialState.WAITING],
        }
        rows = {
            "study": self.study,
            "state": self._state(),
            "settings": ", ".join(f"{name} {value}" for name, value in self.settings.items()) or "none recorded",
            "trials": "none yet",
        }
        if self.started:
            rows["trials"] = f"{self.started} started: " + ", ".join(f"{n} {name}" for name, n in states.items() if n)
        if self.best is not None:
            rows["best"] = self.best
        if self.confirmations:
            rows["confirmation"] = ", ".join(f"{count} {state}" for state, count in sorted(self.confirmations.items()))
        if self.tested:
            rows["test"] = ", ".join(percent(accuracy, 2) for accuracy in self.tested)
        if self.checkpoints:
            rows["checkpoints"] = f"of {', '.join(self.checkpoints)}"
        if self.waiting:
            rows["queue"] = f"{self.waiting} {'entry waits' if self.waiting == 1 else 'entries wait'} for MLflow"
        return rows

    def _state(self) -> str:
        if self.holder is not None:
            return f"run by {self.holder}"
        return "interrupted; the same command resumes it" if self.trials[TrialState.RUNNING] else "not running"


def read_status(store: Store, study: str) -> Status:
    """Read the status of a study.

    Raises:
        StoreError: the store has no such study, or MLflow does not answer.
        StudyError: the Optuna storage cannot be opened.
    """
    stored = load_study(store, study)
    runs = runs_of(connect(store.tracking_uri), study)
    folder = store.checkpoints(study, "x").parent
    return Status(
        study=study,
        holder=holder(store.lock(study)),
        settings={
            name: str(stored.user_attrs[name]) for name in ("space", "preset", "seed") if name in stored.user_attrs
        },
        trials=Counter(trial.state for trial in stored.get_trials(deepcopy=False)),
        started=started_trials(stored),
        best=_best(stored),
        confirmations=Counter(
            run.data.tags.get("state", "unknown") for run in runs if run.data.tags.get("stage") == "confirm"
        ),
        tested=tuple(run.data.metrics["test/accuracy"] for run in runs if "test/accuracy" in run.data.metrics),
        checkpoints=tuple(sorted(path.name for path in folder.glob("*") if any(path.iterdir()))),
        waiting=waiting(store.queues(study)),
    )


def _best(study: optuna.Study) -> str | None:
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not complete:
        return None
    best = study.best_trial
    model = best.user_attrs.get("recipe", {}).get("model", "unknown")
    return best_trial(study.best_value, best.number, model)
