"""Description of a study in MLflow, kept current while it runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from optuna.trial import TrialState

from cifar_core.recipe import Recipe
from sweeps.stages.confirmation import Confirmed
from sweeps.stages.final import ChampionTest
from sweeps.stages.stage import Sweep
from sweeps.studies.keys import STUDY_KEY, seed_of, trial_key
from sweeps.studies.study import REMOVED
from sweeps.tracking.notes import run_name, study_note
from sweeps.tracking.views import FINALISTS, TRIALS
from sweeps.words import percent, with_tta

_REPORT = "report/report.html"


class StudyDescription:
    """Result, finalists and links of a study, as the description of its experiment and of its own run.

    Attributes:
        finalists: the recipes that were confirmed.
        test: of the champion, once it has ended.
    """

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep
        self._written = ""
        self._champion: Confirmed | None = None
        self.finalists: Sequence[Confirmed] = ()
        self.test: ChampionTest | None = None

    def crown(self, champion: Confirmed) -> None:
        """Mark the trial of the champion in the list of runs, and no other: an earlier one is among the finalists."""
        self._champion = champion
        study = self._sweep.study
        trials, removed = study.get_trials(deepcopy=False), study.user_attrs.get(REMOVED, [])
        for number in sorted(finalist.source for finalist in self.finalists):
            if trial_key(number) not in removed:
                tags = {"stage": "search", "trial": str(number)}
                name = run_name(tags, Recipe.from_dict(trials[number].user_attrs["recipe"]), trials[number].value)
                mark = ", champion" if number == champion.source else ""
                self._sweep.tracker.describe(trial_key(number), name=name + mark)

    def write(self, state: str) -> None:
        """Record the description, if it has changed; `state` is running, finished or interrupted."""
        note = study_note(self._result(state), list(self._links(state)), list(self._rows()), self._sweep.command)
        if note != self._written:
            self._sweep.tracker.describe(STUDY_KEY, note=note)
            self._written = note

    def _result(self, state: str) -> str:
        accuracy = self.test.mean("test/accuracy") if self.test is not None else None
        if self.test is not None and self._champion is not None and accuracy is not None:
            network = f"{self._champion.recipe.model} of trial {self._champion.source}"
            tta = with_tta(self.test.mean("test/tta_accuracy"))
            return f"{percent(accuracy, 2)} test accuracy{tta}: {network}, trained on all images"
        progress = self._sweep.progress
        stage, best = progress.stage, progress.best
        counts = f"{stage.name} {stage.ended} of {stage.total}, {stage.counts['pruned']} pruned"
        return f"{state.capitalize()}: {counts}{f'; best so far {best}' if best else ''}"

    def _links(self, state: str) -> Iterator[str]:
        yield f"[Trials by accuracy](view:{TRIALS})"
        if self.finalists:
            yield f"[Finalists](view:{FINALISTS})"
        for key in self.test.keys if self.test is not None else ():
            yield f"[Champion, seed {seed_of(key)}](run:{key})"
        if state == "finished":
            yield f"[Report: build or buy](run:{STUDY_KEY}/artifacts/{_REPORT})"

    def _rows(self) -> Iterator[list[str]]:
        if not self.finalists:
            return  # during the search, each of whose points would go through all trials
        complete = self._sweep.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        values = {trial.number: trial.value for trial in complete}
        for finalist in sorted(self.finalists, key=lambda result: -result.accuracy):
            recipe = finalist.recipe
            name = f"trial {finalist.source}: {recipe.model}, {recipe.optimizer}, batch size {recipe.batch_size}"
            crown = " (champion)" if self._champion is not None and finalist.source == self._champion.source else ""
            beginning = f" (the {finalist.baseline.noun})" if finalist.baseline else ""
            runs = ", ".join(f"[seed {seed_of(key)}](run:{key})" for key in finalist.accuracies)
            linked = f"[{name}](run:trial-{finalist.source}){beginning}{crown}"
            searched = values.get(finalist.source)
            yield [linked, percent(finalist.accuracy, 2), "pruned" if searched is None else percent(searched), runs]
