"""Which runs the names after --runs stand for, read from the store and from the results of reproductions."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from mlflow import MlflowClient
from mlflow.entities import Run

from experiments.comparison.differences import Comparison, Side
from experiments.reading.results import Result
from experiments.reading.runs import of_mlflow, of_result
from experiments.reading.studies import Reader
from sweeps.store import Store, StoreError
from sweeps.tracking.mlflow_client import every_run

LETTERS = 6  # of an id, at least
MOST = 8  # sides: more cannot be told apart in a figure
_LISTED = 6  # names in a message
_WHAT = "a study, STUDY/KEY (as demo/trial-3), a result of reproduce.py, or a run's id"


class RunsError(Exception):
    """Names that stand for no runs, or not for runs that can be compared; the message is one line."""


def choose(names: Sequence[str], baseline: str | None, store: Store, results: Sequence[Result]) -> Comparison:
    """The runs of these names side by side, against the baseline or else the first of them.

    A baseline that is not among the names comes before them.

    Raises:
        RunsError: a name stands for no run or for several, a run is given twice, or there are fewer than 2 or more
            than 8 sides.
        StoreError: there is no such store.
    """
    finder = _Finder(names if baseline is None else [baseline, *names], store, results)
    sides = [finder.find(name) for name in names]
    _check_distinct(names, sides)
    reference = sides[0] if sides else None
    if baseline is not None:
        found = finder.find(baseline)
        reference = next((side for side in sides if side.run_ids == found.run_ids), found)
        if reference is found:
            sides.insert(0, found)
            _check_distinct([baseline, *names], sides)
    if reference is None or not 2 <= len(sides) <= MOST:
        given = f"{len(sides)}, the baseline included" if baseline is not None else str(len(sides))
        raise RunsError(f"--runs must name 2 to {MOST} runs or studies, but got {given}")
    return Comparison(tuple(sides), reference, baseline is not None)


def _check_distinct(names: Sequence[str], sides: Sequence[Side]) -> None:
    owner: dict[str, str] = {}
    for name, side in zip(names, sides, strict=True):
        for run_id in side.run_ids:
            if run_id in owner:
                raise RunsError(f"a run must be given once, but {owner[run_id]!r} and {name!r} both hold {run_id}")
        owner |= dict.fromkeys(side.run_ids, name)


class _Finder:
    """Finds what a name stands for: a study, a result, STUDY/KEY, or a run's id, tried in this order."""

    def __init__(self, names: Sequence[str], store: Store, results: Sequence[Result]) -> None:
        self._results = {f"{r.name}-seed{r.seed}": r for r in results}
        self._reader: Reader | None = None
        self._studies: list[str] = []
        self._experiments: dict[str, str] = {}
        try:
            self._reader = Reader(store)
        except StoreError:
            if not self._results.keys() >= set(names):  # results of reproductions can do without a store
                raise
            return
        self._client = MlflowClient(store.tracking_uri)
        self._studies = self._reader.studies()
        self._experiments = {e.name: e.experiment_id for e in self._client.search_experiments()}

    def find(self, name: str) -> Side:
        study, _, key = name.rpartition("/")
        if name in self._studies:
            return self._study(name)
        if name in self._results:
            reproduced = of_result(self._results[name], self._reader)
            return Side(name, reproduced.what, (reproduced,))
        if study in self._experiments:
            return self._of_run(name, self._by_key(study, key))
        if re.fullmatch(rf"[0-9a-fA-F]{{{LETTERS},32}}", name):
            return self._by_id(name.lower())
        raise self._unknown(name, [*self._studies, *self._results])

    def _study(self, name: str) -> Side:
        assert self._reader is not None
        study = self._reader.read(name)
        kept = [self._client.get_run(run_id) for run_id in study.subject["run_id"]]
        runs = tuple(of_mlflow(run, name, self._client, self._reader) for run in kept)
        if not runs:
            raise RunsError(f"a study must have a complete trial to be compared, but {name!r} has none yet")
        if len(study.champion):
            return Side(name, "champion of the study", runs)
        return Side(name, f"best complete trial of the study, number {study.subject['trial'].iloc[0]:g}", runs)

    def _by_key(self, study: str, key: str) -> Run:
        runs = every_run(self._client, [self._experiments[study]], f"tags.key = '{key}'") if "'" not in key else []
        if not runs or not key:
            known = every_run(self._client, [self._experiments[study]], "tags.key LIKE '%'")
            keys = sorted({run.data.tags["key"] for run in known} - {"study"})
            raise self._unknown(f"{study}/{key}", [f"{study}/{k}" for k in keys])
        return max(runs, key=lambda run: (run.info.start_time, run.info.run_id))

    def _by_id(self, start: str) -> Side:
        runs = every_run(self._client, list(self._experiments.values()), f"attributes.run_id LIKE '{start}%'")
        if not runs:
            raise self._unknown(start, [*self._studies, *self._results])
        if len(runs) > 1:
            several = _listed(sorted(run.info.run_id for run in runs))
            raise RunsError(f"the first letters of a run's id must be those of one run, but {start!r} may be {several}")
        if runs[0].data.tags.get("stage") == "study":
            return self._study(self._name(runs[0]))
        return self._of_run(runs[0].info.run_id[:8], runs[0])

    def _of_run(self, name: str, run: Run) -> Side:
        if not run.data.params:  # the run that holds those of a study or of the reproductions
            raise RunsError(f"a run must be one that trained, but {name!r} has no parameters")
        assert self._reader is not None
        found = of_mlflow(run, self._name(run), self._client, self._reader)
        return Side(name, found.what, (found,))

    def _name(self, run: Run) -> str:
        """Of a run's study."""
        return next(name for name, number in self._experiments.items() if number == run.info.experiment_id)

    @staticmethod
    def _unknown(name: str, known: Sequence[str]) -> RunsError:
        close = difflib.get_close_matches(name, known, n=1)
        there = f"known here: {_listed(known)}" if known else "none is known here"
        return RunsError(
            f"--runs and --baseline must name {_WHAT} ({LETTERS} or more letters of it), but got {name!r}; "
            + (f"did you mean {close[0]!r}?" if close else there)
        )


def _listed(names: Sequence[str]) -> str:
    more = [f"{len(names) - _LISTED} more"] if len(names) > _LISTED else []
    return ", ".join([*names[:_LISTED], *more])
