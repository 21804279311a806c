"""Repair of a store: what `--verify` finds and can be mended without a guess."""

from __future__ import annotations

from collections.abc import Callable

from sweeps.checks.verify import findings
from sweeps.store import Store
from sweeps.tracking.mlflow_client import answering
from sweeps.words import counted

_ROUNDS = 4  # a repair can show more to be mended: an experiment first, then its runs


def repair(store: Store, study: str, say: Callable[[str], None]) -> int:
    """List the faults of a study and what mends them, then do that; return the number of faults left.

    Args:
        say: receives each line.

    Raises:
        StoreError: the store has no such study, cannot be written to, or MLflow does not answer.
        StudyError: the Optuna storage is too damaged to be opened.
    """
    said: set[str] = set()
    for _ in range(_ROUNDS):
        found = list(findings(store, study))
        for finding in found:
            if finding.text not in said:
                say(f"{finding}: {finding.repair.does if finding.repair else 'this stays as it is'}")
        said |= {finding.text for finding in found}
        repairs = [finding.repair for finding in found if finding.repair is not None]
        if not repairs:
            break
        for each in repairs:
            with answering(store.tracking_uri):
                each.do()
            say(f"done: {each.does}")
    say(f"{counted(len(found), 'finding')} left" if found else "nothing is left to mend")
    return len(found)
