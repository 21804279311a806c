"""Status of a study, read from its store without changing anything there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import optuna
from mlflow.entities import Run
from optuna.trial import TrialState

from sweeps.lock import holder
from sweeps.states import STATE_OF_TRIAL
from sweeps.store import Store
from sweeps.studies.keys import STUDY_KEY
from sweeps.studies.settings import ADAPTATION
from sweeps.studies.study import load_study
from sweeps.tracking.mlflow_client import connect, runs_of
from sweeps.tracking.mlflow_queue import queued
from sweeps.words import best_trial, counted, percent, waiting_workers, with_tta

_RUNNING, _INTERRUPTED = "running", "interrupted"
_LONG_RUNS = {"confirmation": "confirm", "final": "final", "fine-tuning": "tuned"}  # stage of each row


def read_status(store: Store, study: str) -> dict[str, str]:
    """Return the status of a study as a table of two columns for people.

    Raises:
        StoreError: the store has no such study, or MLflow does not answer.
        StudyError: the Optuna storage cannot be opened.
    """
    stored = load_study(store, study)
    runs = runs_of(connect(store.tracking_uri), study)
    tested = [run.data.metrics for run in runs if "test/accuracy" in run.data.metrics]
    checkpoints = sorted({path.parent.name for path in store.checkpoint_folder(study).glob("*/*")})
    entries = queued(store.queues(study))
    runner = holder(store.lock(study))
    on_server = store.mlflow_file is None or Store.local(store.storage_url) is None
    running = _RUNNING if runner is not None else f"{_RUNNING} or {_INTERRUPTED}" if on_server else _INTERRUPTED
    tags = next((run.data.tags for run in runs if run.data.tags.get("key") == STUDY_KEY), {})
    search = _search(stored, running)
    if runner is not None:
        state = f"run by {runner}"
    elif on_server:
        state = "does not run from this store; another machine may run it"
    elif _INTERRUPTED in search["trials"] or tags.get("state") in (_RUNNING, _INTERRUPTED):
        state = "interrupted; the same command resumes it"
    else:
        state = "not running"
    rows = {"study": study, "state": state, **search}
    for name, stage in _LONG_RUNS.items():
        own = [run.data.tags.get("state", "unknown") for run in runs if run.data.tags.get("stage") == stage]
        states = Counter(running if state == _RUNNING else state for state in own)
        if states:
            rows[name] = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    if "champion" in tags:
        rows["champion"] = f"trial {tags['champion']}"
    if runner is not None:
        rows |= _cluster(runs, tags)
    if tested:
        rows["test"] = ", ".join(percent(m["test/accuracy"], 2) + with_tta(m.get("test/tta_accuracy")) for m in tested)
    if (report := store.report(study) / "report.html").exists():
        rows["report"] = str(report.resolve())
    if checkpoints:
        rows["checkpoints"] = f"of {', '.join(checkpoints)}"
    if entries:
        rows["queue"] = f"{counted(entries, 'entry')} for MLflow"
    return rows


def _cluster(runs: Sequence[Run], study: Mapping[str, str]) -> dict[str, str]:
    """Rows on the nodes of a sweep on a cluster, and its workers that wait; `study` has the tags of its own run."""
    rows, tags = {}, [run.data.tags for run in runs]
    places = sorted((own["node"], own["key"]) for own in tags if own.get("state") == "running" and "node" in own)
    if places:
        rows["nodes"] = ", ".join(f"{key} on {node}" for node, key in places)
    if workers := int(study.get("waiting", 0)):
        rows["waiting"] = waiting_workers(workers)
    return rows


def _search(study: optuna.Study, running: str) -> dict[str, str]:
    """Rows of the search; `running` is the state of trials that have not ended."""
    names = {**STATE_OF_TRIAL, TrialState.RUNNING: running, TrialState.WAITING: "queued"}
    counts = Counter(names[trial.state] for trial in study.get_trials(deepcopy=False))
    known = study.user_attrs.get(ADAPTATION, study.user_attrs)
    settings = [f"{name} {known[name]}" for name in ("space", "preset", "seed") if name in known]
    rows = {"settings": ", ".join(settings) or "none recorded", "trials": "none yet"}
    if started := counts.total() - counts["queued"]:
        trials = ", ".join(f"{counts[name]} {name}" for name in names.values() if counts[name])
        rows["trials"] = f"{started} started: {trials}"
    if counts["complete"]:
        best = study.best_trial
        recipe = best.user_attrs.get("recipe", {})
        model = f"scaling {recipe['scaling']}" if "scaling" in recipe else recipe.get("model", "unknown")
        rows["best"] = best_trial(study.best_value, best.number, model)
    return rows
