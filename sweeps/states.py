"""The states of a run, and their names in MLflow and in Optuna."""

from __future__ import annotations

from collections.abc import Mapping

from optuna.trial import TrialState

# A run's state is its tag `state`. MLflow has one status for pruned and for interrupted runs; a study's own run is
# "finished" where other runs are "complete".
STATUS_OF_STATE: Mapping[str, str] = {
    "running": "RUNNING",
    "complete": "FINISHED",
    "finished": "FINISHED",
    "pruned": "KILLED",
    "interrupted": "KILLED",
    "failed": "FAILED",
}

# For runs without the tag.
STATE_OF_STATUS: Mapping[str, str] = {
    "RUNNING": "running",
    "FINISHED": "complete",
    "KILLED": "pruned",
    "FAILED": "failed",
}

# Of trials that have ended.
STATE_OF_TRIAL: Mapping[TrialState, str] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}
ENDED = tuple(STATE_OF_TRIAL.values())
TRIAL_OF_STATE: Mapping[str, TrialState] = {state: trial for trial, state in STATE_OF_TRIAL.items()}
