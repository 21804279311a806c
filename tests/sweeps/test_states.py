"""States of a run: each has a status in MLflow, and those of ended trials are told apart."""

from __future__ import annotations

from mlflow.entities import RunStatus
from optuna.trial import TrialState

from sweeps.states import STATE_OF_STATUS, STATE_OF_TRIAL, STATUS_OF_STATE, TRIAL_OF_STATE


def test_mlflow_has_the_statuses() -> None:
    assert set(STATUS_OF_STATE.values()) <= {RunStatus.to_string(number) for number in RunStatus.all_status()}


def test_a_status_and_its_state_name_each_other() -> None:
    assert all(STATUS_OF_STATE[state] == status for status, state in STATE_OF_STATUS.items())


def test_every_way_in_which_a_trial_ends_has_a_state() -> None:
    assert set(STATE_OF_TRIAL) == {state for state in TrialState if state.is_finished()}
    assert {TRIAL_OF_STATE[state] for state in STATE_OF_TRIAL.values()} == set(STATE_OF_TRIAL)
