"""Agreement of Optuna, MLflow and the files of a study, of which each may be deleted, renamed or restored by hand.

Optuna knows what a trial is; MLflow holds what its run gave. A run belongs to a trial if its key names the trial and
its params are those of the trial's recipe.
"""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Experiment, LifecycleStage, Run, ViewType
from optuna.trial import FrozenTrial, TrialState

from cifar_core.errors import UserError
from sweeps.states import STATE_OF_TRIAL
from sweeps.store import Store
from sweeps.studies.keys import STUDY_KEY, trial_key, trial_of
from sweeps.studies.study import ranked
from sweeps.tracking.artifacts import missing_artifacts
from sweeps.tracking.locations import follow_store, is_new, moved_from
from sweeps.tracking.mlflow_client import answering, connect, every_run, renamed
from sweeps.tracking.mlflow_queue import unsent
from sweeps.words import counted, shortened

_ANOTHER_NAME = "begin a study of another name with --study"
# Fields of a recipe that confirmation and final set anew, most of them by `Budget.extend`.
_OF_STAGE = frozenset({"seed", "epochs", "batch_size", "learning_rate", "weight_decay", "val_fraction"})


@dataclass(frozen=True, slots=True)
class Repair:
    """A repair that guesses nothing."""

    does: str  # as in "restore the run trial-0"
    do: Callable[[], object]


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault of a store, in one line."""

    text: str
    repair: Repair | None = None
    blocks: bool = False  # a sweep that resumed now would give wrong results
    advice: str = _ANOTHER_NAME  # where nothing is repaired

    def __str__(self) -> str:
        return self.text


def check_before_training(
    store: Store, study: str, trials: Sequence[FrozenTrial] | None, say: Callable[[str], None]
) -> None:
    """Mend what needs no guess, and say so, before a sweep starts or resumes.

    Args:
        trials: the trials that Optuna has; None if it has no such study.
        say: receives one line for each repair, and for each fault that does no harm.

    Raises:
        UserError: the sweep would give wrong results.
        StoreError: MLflow does not answer.
        LockError: another process runs a study of a store that was moved.
    """
    found = list(disagreements(store, study, trials))
    if wrong := [finding for finding in found if finding.blocks]:
        first, *others = wrong
        more = f" ({len(others)} more; --verify lists them)" if others else ""
        way = f"--repair can {first.repair.does}, or " if first.repair is not None else ""
        raise UserError(f"study {study!r} cannot be trained: {first}{more}; {way}{first.advice}")
    for finding in found:
        if finding.repair is None:
            say(finding.text)
            continue
        with answering(store.tracking_uri):
            finding.repair.do()
        say(f"{finding}; mended: {finding.repair.does}")


def disagreements(
    store: Store, study: str, trials: Sequence[FrozenTrial] | None, known: Sequence[Run] | None = None
) -> Iterator[Finding]:
    """Yield where Optuna, MLflow and the record of test set evaluations disagree about a study.

    Args:
        trials: the trials that Optuna has; None if it has no such study.
        known: all runs of the study, deleted ones too. By default only those are read that a sweep would use or
            overwrite: reading 10,000 runs takes half a minute.

    Raises:
        StoreError: MLflow does not answer.
    """
    yield from _moved(store, study)
    if trials is None and (entries := unsent(store.queues(study))):
        yield Finding(
            f"Optuna has no study {study!r}, but {store.queues(study)} holds {counted(entries, 'line')} for MLflow of "
            "one",
            blocks=True,
            advice=f"bring optuna.db back from a copy, move that folder away, or {_ANOTHER_NAME}",
        )
    recorded = {key for name, key in store.evaluations() if name == study}
    if trials is None and not recorded and is_new(store):
        return  # so the tables, which take seconds to create, are left to the sweep
    client = connect(store.tracking_uri)
    with answering(store.tracking_uri):
        experiment = client.get_experiment_by_name(study)
        if experiment is None:
            yield from _without_experiment(client, study, trials)
        elif experiment.lifecycle_stage == LifecycleStage.DELETED:
            yield Finding(
                f"the MLflow experiment {study!r} was deleted",
                Repair("restore it with its runs", lambda: client.restore_experiment(experiment.experiment_id)),
                blocks=True,
            )
        else:
            yield from _runs(store, client, experiment, study, trials, known)
        if recorded and not unsent(store.queues(study)):
            yield from _second_looks(client, experiment, study, recorded, known)


def _moved(store: Store, study: str) -> Iterator[Finding]:
    if before := moved_from(store):
        old = shortened(list(map(str, before)))
        yield Finding(
            f"MLflow looks for artifacts in {old}, where the store was before",
            Repair(f"record in MLflow that they are in {store.root}", lambda: follow_store(store, study)),
        )


def _without_experiment(client: MlflowClient, study: str, trials: Sequence[FrozenTrial] | None) -> Iterator[Finding]:
    """MLflow has no experiment of this name."""
    if (other := renamed(client, study)) is not None:
        yield Finding(
            f"the MLflow experiment {study!r} is now called {other.name!r}",
            Repair(f"rename it to {study!r}", lambda: client.rename_experiment(other.experiment_id, study)),
            blocks=True,
        )
    elif started := [trial for trial in trials or () if trial.state != TrialState.WAITING]:
        yield Finding(
            f"Optuna has {counted(len(started), 'trial')} of it, but MLflow has no such experiment",
            blocks=True,
            advice=f"bring mlflow.db back from a copy, or {_ANOTHER_NAME}",
        )


def _runs(
    store: Store,
    client: MlflowClient,
    experiment: Experiment,
    study: str,
    trials: Sequence[FrozenTrial] | None,
    known: Sequence[Run] | None,
) -> Iterator[Finding]:
    where = [experiment.experiment_id]
    if trials is None:
        if runs := every_run(client, where):
            own = next((run.data.tags["study"] for run in runs if "study" in run.data.tags), study)
            text = f"Optuna has no study {study!r}, but MLflow has {counted(len(runs), 'run')} of it"
            advice = f"bring optuna.db back from a copy, or {_ANOTHER_NAME}"
            if own != study:
                text = f"the MLflow experiment {study!r} is that of study {own!r}, and was renamed"
                advice = f"resume that one with --study {shlex.quote(own)}, or {_ANOTHER_NAME}"
            yield Finding(text, blocks=True, advice=advice)
        return
    looked_at = known if known is not None else _runs_at_stake(client, where, trials)
    started = {trial.number: trial for trial in trials if trial.state != TrialState.WAITING}
    by_key: dict[str, list[Run]] = defaultdict(list)
    for run in {run.info.run_id: run for run in looked_at}.values():
        by_key[run.data.tags.get("key", "")].append(run)
    if started and STUDY_KEY not in by_key:
        yield Finding("MLflow has no run of the study itself; a sweep that resumes creates it again")
    for key, same in sorted(by_key.items()):
        active = [run for run in same if run.info.lifecycle_stage == LifecycleStage.ACTIVE]
        if not key:
            yield from (Finding(f"MLflow has a run {run.info.run_id} without a key") for run in active)
        elif key == STUDY_KEY:
            yield from _one(store, client, key, active, same)
        elif (trial := started.get(trial_of(key))) is None:
            if active:
                yield Finding(
                    f"MLflow has a run {key}, but Optuna has no such trial",
                    blocks=True,
                    advice=f"bring optuna.db back from a copy, or {_ANOTHER_NAME}",
                )
        elif any(_trained_another(run, trial, key) for run in active):
            yield Finding(f"the run {key} in MLflow did not train the recipe of trial {trial.number}", blocks=True)
        else:
            ours = [run for run in same if not _trained_another(run, trial, key)]
            yield from _one(store, client, key, active, ours)


def _runs_at_stake(client: MlflowClient, where: Sequence[str], trials: Sequence[FrozenTrial]) -> list[Run]:
    """Return the runs of a study that a sweep would use or overwrite, and those that were deleted."""
    ended = [trial for trial in trials if trial.state in STATE_OF_TRIAL]
    begin_again = [trial.number for trial in trials if trial.state in (TrialState.RUNNING, TrialState.WAITING)]
    samples = [trial.number for trial in (*ended[:1], *ended[-1:], *ranked(trials)[:1])]
    runs = every_run(client, where, "tags.stage != 'search'", view=ViewType.ALL)
    runs += every_run(client, where, view=ViewType.DELETED_ONLY)
    for number in sorted({*begin_again, *samples, len(trials)}):  # the next trial has the number of trials so far
        runs += every_run(client, where, f"tags.key = '{trial_key(number)}'")
    return runs


def _trained_another(run: Run, trial: FrozenTrial, key: str) -> bool:
    recipe: Mapping[str, Any] = trial.user_attrs.get("recipe", {})
    anew = frozenset[str]() if key == trial_key(trial.number) else _OF_STAGE
    params = run.data.params
    return any(name in params and params[name] != str(recipe[name]) for name in recipe.keys() - anew)


def _one(store: Store, client: MlflowClient, key: str, active: Sequence[Run], same: Sequence[Run]) -> Iterator[Finding]:
    """There must be one run with this key, and it must not be deleted, unless its removal for good was cut short."""
    if len(active) > 1:
        text = f"MLflow: there must be one run {key}, but there are {len(active)}"
        empty = [run.info.run_id for run in active if not run.data.params and not run.data.metrics]
        if len(empty) == len(active) - 1:
            does = f"delete {shortened(empty)}, without params and metrics"
            yield Finding(text, Repair(does, lambda: _delete(client, empty)))
        else:
            ids = shortened([run.info.run_id for run in active])
            yield Finding(text, blocks=True, advice=f"delete all but one of {ids} in MLflow")
    elif not active and len(same) == 1:
        [run] = same
        folder, _ = missing_artifacts(store, run) or (None, [])
        if store.holds_mlflow and folder is not None and not folder.exists():
            rest = f"make clean-store{store.for_make()} removes the rest"
            yield Finding(f"the run {key} was deleted in MLflow, and its files are gone; {rest}")
            return
        yield Finding(
            f"the run {key} was deleted in MLflow",
            Repair(f"restore the run {run.info.run_id}", lambda: client.restore_run(run.info.run_id)),
        )
    elif not active and same:
        ids = shortened([run.info.run_id for run in same])
        yield Finding(
            f"{len(same)} runs {key} were deleted in MLflow", blocks=True, advice=f"restore one of {ids} in MLflow"
        )


def _delete(client: MlflowClient, run_ids: Sequence[str]) -> None:
    for run_id in run_ids:
        client.delete_run(run_id)


def _second_looks(
    client: MlflowClient,
    experiment: Experiment | None,
    study: str,
    recorded: Set[str],
    known: Sequence[Run] | None,
) -> Iterator[Finding]:
    """Every evaluation on the test set must have its result in MLflow, or the next one is not the first."""
    if known is None:
        where = [experiment.experiment_id] if experiment is not None else []
        known = every_run(client, where, "tags.stage != 'search'", view=ViewType.ALL)
    tested = {run.data.tags.get("key") for run in known if "test/accuracy" in run.data.metrics}
    for key in sorted(recorded - tested):
        yield Finding(
            f"the test set was evaluated for {key} of {study}, but MLflow has no result of that; a further evaluation "
            "is not the first"
        )
