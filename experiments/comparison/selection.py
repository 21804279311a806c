"""Resolve the arguments of --runs to groups of runs, from the store and from the results of reproductions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlflow.entities import Run

from cifar_core.errors import UserError, suggest_name
from experiments.comparison.differences import Comparison, Group
from experiments.pages.plots import PALETTE
from experiments.reading.load_study import read_tables
from experiments.reading.named_runs import LETTERS, candidates, runs_named, suggestion
from experiments.reading.results import Result
from experiments.reading.runs import from_mlflow, from_result
from experiments.reading.study_reader import StudyReader
from sweeps.store import Store, StoreError

MOST_GROUPS = len(PALETTE)  # each has a colour


def choose(names: Sequence[str], baseline: str | None, store: Store, results: Sequence[Result]) -> Comparison:
    """Find the runs that these names (at least one) stand for.

    The reference is the baseline, else the first group. A baseline that is not among the names becomes the first group.

    Raises:
        UserError: a name stands for no run or for several, a run is given twice, or there are fewer than 2 or more
            than 8 groups.
        StoreError: there is no such store, or it does not answer.
    """
    reproduced = {f"{r.name}-seed{r.seed}": r for r in results}
    try:
        reader: StudyReader | None = StudyReader(store)
    except StoreError:
        unknown = [name for name in (*names, baseline) if name is not None and name not in reproduced]
        for name in unknown:
            if meant := suggest_name(name, list(reproduced), ""):
                rule = "--runs and --baseline must name results of reproduce.py where no store can be read"
                raise UserError(f"{rule}, but got {name!r}; {meant}") from None
        if unknown:
            raise
        reader = None  # results of reproductions need no store
    groups = [_find(name, reproduced, reader) for name in names]
    reference = groups[0]
    if baseline is not None:
        found = _find(baseline, reproduced, reader)
        reference = next((group for group in groups if group.run_ids == found.run_ids), found)
        if reference is found:
            groups, names = [found, *groups], [baseline, *names]
    owner: dict[str, str] = {}
    for name, group in zip(names, groups, strict=True):
        if twice := next((run_id for run_id in group.run_ids if run_id in owner), None):
            both = f"{name!r} is given twice"
            if owner[twice] != name:
                both = f"{owner[twice]!r} and {name!r} both hold {twice}"
            raise UserError(f"a run must be given once, but {both}")
        owner |= dict.fromkeys(group.run_ids, name)
    if not 2 <= len(groups) <= MOST_GROUPS:
        given = f"{len(groups)}, the baseline included" if baseline is not None else str(len(groups))
        raise UserError(f"--runs must name 2 to {MOST_GROUPS} runs or studies, but got {given}")
    return Comparison(tuple(groups), reference, baseline is not None)


def _find(name: str, reproduced: Mapping[str, Result], reader: StudyReader | None) -> Group:
    """Find the group of a study, a result, or of a run that `runs_named` finds."""
    studies = reader.studies() if reader is not None else []
    if name in reproduced and name not in studies:
        found = from_result(reproduced[name], reader)
        return Group(name, found.description, (found,))
    assert reader is not None
    if name in studies:
        return _study(name, reader)
    if name in reader.adapted_studies():
        return _adapted(name, reader)
    runs = runs_named(name, reader)
    if len(runs) > 1:
        several = candidates(runs, reader)
        raise UserError(f"--runs and --baseline must name one run each, but {name!r} may be {several}")
    if runs:
        return _single(name, runs[0], reader)
    nearest = suggestion(name, reader, [*studies, *reproduced])
    raise UserError(
        "--runs and --baseline must name a study, STUDY/KEY (such as quick-full/trial-3), a result of reproduce.py, a "
        f"run's id ({LETTERS} or more letters of it) or name, or champion, but got {name!r}{nearest}"
    )


def _study(name: str, reader: StudyReader) -> Group:
    study = read_tables(reader, name)
    runs = tuple(from_mlflow(reader.run(run_id), name, reader) for run_id in study.subject["run_id"])
    if not runs:
        raise UserError(f"a study must have a complete trial to be compared, but {name!r} has none yet")
    best = "champion of the study"
    if not len(study.champion):
        best = f"best complete trial of the study, number {study.subject['trial'].iloc[0]:g}"
    return Group(name, best, runs)


def _adapted(name: str, reader: StudyReader) -> Group:
    tested = reader.runs("metrics.`test/accuracy` >= 0", name)
    if not tested:
        raise UserError(f"a study that adapts must have a tested network to be compared, but {name!r} has none yet")
    return Group(name, "adapted network of the study", (from_mlflow(tested[0], name, reader),))


def _single(name: str, run: Run, reader: StudyReader) -> Group:
    if run.data.tags.get("stage") == "study":
        return _study(reader.experiments[run.info.experiment_id], reader)
    if run.info.run_id.startswith(name.lower()):
        name = run.info.run_id[:8]
    if not run.data.params:  # the parent run of a study or of the reproductions
        raise UserError(f"a run must be one that trained, but {name!r} has no parameters")
    found = from_mlflow(run, reader.experiments[run.info.experiment_id], reader)
    return Group(name, found.description, (found,))
