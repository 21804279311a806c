"""Commands on a stored study that train nothing: `--status`, `--verify`, `--repair` and `--replay`.

Each prints what it finds and returns the exit code. All raise a StoreError if the store has no such study.
"""

from __future__ import annotations

from sweeps.checks.status import read_status
from sweeps.checks.verify import findings
from sweeps.command_line import FAILED
from sweeps.console import SweepConsole
from sweeps.lock import acquire, exclude_runs
from sweeps.snapshot import readable
from sweeps.store import Store
from sweeps.studies.study import load_study
from sweeps.tracking.mlflow_client import answering
from sweeps.tracking.mlflow_queue import unsent
from sweeps.tracking.tracker import MlflowTracker
from sweeps.words import counted

_ROUNDS = 4  # a repair can show more to be mended: an experiment first, then its runs


def show_status(store: Store, study: str) -> int:
    """Print the status of a study, which may be running."""
    with readable(store) as source, SweepConsole() as console:
        console.plan(read_status(source, study))
    return 0


def verify_store(store: Store, study: str) -> int:
    """Print the faults of the store; return 1 if there are any.

    Raises:
        LockError: the study is running, so its databases may differ at any moment.
    """
    store.check_exists()  # a database that alone is missing is a finding
    found = mendable = 0
    with exclude_runs(store.lock(study), study), readable(store) as source:
        for finding in findings(source, study):  # printed at once, because all may take minutes
            print(finding, flush=True)
            found += 1
            mendable += finding.repair is not None
    if found:
        ways = f"; --repair mends {mendable} of them" if mendable else ""
        print(f"{counted(found, 'finding')}{ways}")
    else:
        print("nothing found: databases, trials and files agree")
    return FAILED if found else 0


def repair_store(store: Store, study: str) -> int:
    """Print the faults of the store, and mend those that need no guess; return 1 if some are left.

    Raises:
        LockError: the study is running.
    """
    store.check()
    store.create()  # which says in a line that it cannot be written to
    with acquire(store.lock(study), study):
        printed: set[str] = set()
        for left in range(_ROUNDS, -1, -1):
            found = list(findings(store, study))
            for finding in found:
                if finding.text not in printed:
                    print(f"{finding}: {finding.repair.does if finding.repair else 'this stays as it is'}")
            printed |= {finding.text for finding in found}
            repairs = [finding.repair for finding in found if finding.repair is not None]
            if not repairs or not left:
                break
            for repair in repairs:
                with answering(store.tracking_uri):
                    repair.do()
                print(f"done: {repair.does}")
    print(f"{counted(len(found), 'finding')} left" if found else "nothing is left to mend")
    return FAILED if found else 0


def replay_queue(store: Store, study: str) -> int:
    """Send MLflow the entries that it missed or refused; return 1 if it refused some again.

    Raises:
        LockError: the study is running, and sends them itself.
    """
    if not (entries := unsent(store.queues(study))):
        with readable(store) as source:
            load_study(source, study)
        print(f"nothing waits for MLflow in study {study}")
        return 0
    with acquire(store.lock(study), study):
        tracker = MlflowTracker(store, study, say=print)
        tracker.open()
        refused = tracker.close()
    print(f"MLflow has received {entries - refused} of {counted(entries, 'entry')}")
    return FAILED if refused else 0
