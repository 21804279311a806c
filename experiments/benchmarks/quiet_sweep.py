"""A sweep that prints nothing, to be measured."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable

import optuna

from sweeps.command_line import Interrupted
from sweeps.console import SweepConsole
from sweeps.coordinator import Coordinator
from sweeps.executors.protocol import Executor
from sweeps.planning.plan import Plan
from sweeps.stages.stage import Sweep
from sweeps.store import Store
from sweeps.studies.storage import OneWriterStorage, open_storage
from sweeps.studies.study import open_study
from sweeps.tracking.tracker import MlflowTracker


def run_quietly(
    plan: Plan,
    store: Store,
    executor: Executor,
    *,
    samples: Callable[[], bytes],
    stop: Callable[[optuna.Study], bool],
) -> optuna.Study:
    """Run a sweep until its end or until `stop` returns true, and until everything is in MLflow; close `executor`.

    Args:
        samples: returns a picture of training images, as PNG.

    Raises:
        RuntimeError: MLflow lacks entries, from which the compute of a study is read.
    """
    with contextlib.closing(executor):
        storage = OneWriterStorage(open_storage(store.storage_url))
        study, tracker = open_study(plan, storage), MlflowTracker(store, plan.study)
        try:
            with SweepConsole(file=io.StringIO()) as console, contextlib.suppress(Interrupted):
                sweep = Sweep(
                    plan=plan,
                    study=study,
                    storage=storage,
                    tracker=tracker,
                    store=store,
                    console=console,
                    tags={},
                )
                tracker.open()
                Coordinator(sweep, executor, samples, lambda: stop(study)).run()
        finally:
            lacking = tracker.close(60)
    if lacking:
        raise RuntimeError("MLflow must get everything")
    return study
