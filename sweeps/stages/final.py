"""The final: train the champion's recipe on all training images, and test the networks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from statistics import fmean

from cifar_core.checkpoint import is_whole
from cifar_core.recipe import Recipe
from sweeps.executors.protocol import EvaluateJob, Failed, Outcome, RunsFailError
from sweeps.progress import StageProgress, SweepRun
from sweeps.stages.confirmation import Confirmed
from sweeps.stages.stage import Stage, Sweep
from sweeps.studies.keys import final_key, seed_of
from sweeps.studies.study import derive_seed
from sweeps.tracking.notes import run_name, run_note
from sweeps.tracking.registry import version_tags
from sweeps.words import percent, with_tta


class Final(Stage):
    """Runs of the champion's recipe on all training images, each with the key `final-TRIAL-SEED`."""

    def __init__(self, sweep: Sweep, champion: Confirmed) -> None:
        super().__init__(sweep)
        self._champion = champion
        self.at_once, self._threads = sweep.side_by_side(sweep.plan.preset.finals)
        self._todo = list(self._unfinished())
        self.progress = sweep.stage_of("final", self._todo)

    def runs(self) -> Iterator[SweepRun]:
        """Yield the runs that are still to do; they include those that failed in an earlier process."""
        yield from self._todo

    @property
    def trained(self) -> list[str]:
        """The keys of the complete runs."""
        return [key for key in self._keys() if self.sweep.tracker.state(key) == "complete"]

    def _keys(self) -> list[str]:
        return [final_key(self._champion.source, seed) for seed in range(self.sweep.plan.preset.finals)]

    def _unfinished(self) -> Iterator[SweepRun]:
        sweep, plan = self.sweep, self.sweep.plan
        for seed, key in enumerate(self._keys()):
            state = sweep.tracker.state(key)
            if state == "pruned" or (state == "complete" and is_whole(sweep.store.weights(plan.study, key))):
                continue
            recipe = _recipe(sweep, self._champion, seed)
            tags = {"stage": "final", "trial": key, "source_trial": str(self._champion.source), "seed": str(seed)}
            tags |= {"champion": "true"}
            title = f"final {self._champion.source}/{seed}"
            yield sweep.train_run(key, title, recipe, {}, tags, keep_weights=True, threads=self._threads)


class ChampionTest(Stage):
    """Evaluation of each final network on the sealed test set, once; `keys` are those of the final runs."""

    def __init__(self, sweep: Sweep, champion: Confirmed, keys: Sequence[str]) -> None:
        super().__init__(sweep)
        self._champion, self.keys = champion, keys
        self.at_once, self._threads = sweep.side_by_side(len(keys))
        self.progress = StageProgress("test", len(keys))

    def runs(self) -> Iterator[SweepRun]:
        """Yield the final runs that have no test accuracy yet."""
        for key in self.keys:
            if self.sweep.tracker.metric(key, "test/accuracy") is None:
                weights = self.sweep.store.weights(self.sweep.plan.study, key)
                recipe = _recipe(self.sweep, self._champion, seed_of(key))
                job = EvaluateJob(key=key, recipe=recipe, weights=weights, threads=self._threads)
                yield SweepRun(f"test of {key}", job)

    def mean(self, metric: str) -> float | None:
        """Return the mean of a metric over the final runs, or None if none has it."""
        values = [self.sweep.tracker.metric(key, metric) for key in self.keys]
        known = [value for value in values if value is not None]
        return fmean(known) if known else None

    def register(self) -> None:
        """Log all networks, and register that of the first final run as the study's champion.

        Only now, as the export of a network would slow the timing of serving.
        """
        champion, tracker, plan = self._champion, self.sweep.tracker, self.sweep.plan
        first = self.keys[0]
        test, tta = (tracker.metric(first, f"test/{name}") for name in ("accuracy", "tta_accuracy"))
        of_version = plan.data_set, plan.study, champion.source, champion.recipe.model
        tags = version_tags(*of_version, val=champion.accuracy, test=test, tta=tta)
        for key in self.keys:
            weights = self.sweep.store.weights(plan.study, key)
            if key == first:
                tracker.register(key, weights, tags)
            else:
                tracker.log_model(key, weights)

    def start(self, run: SweepRun) -> None:
        """Record the evaluation before it happens."""
        plan = self.sweep.plan
        self.sweep.store.record_test_set_evaluation(study=plan.study, key=run.key, data_sha256=plan.data_set.sha256)

    def finish(self, run: SweepRun, outcome: Outcome | None) -> None:
        """Record the test accuracy."""
        assert outcome is not None
        tags = {"stage": "final", "source_trial": str(self._champion.source), "seed": str(seed_of(run.key))}
        name = run_name({**tags, "trial": run.key}, run.job.recipe, outcome.accuracy)
        tested = f"Champion: {percent(outcome.accuracy, 2)} test accuracy{with_tta(outcome.tta_accuracy)}"
        note = run_note(tested, self.sweep.tracker.costs(run.key), outcome.files)
        self.sweep.tracker.tested(run.key, outcome, name=name, note=note)
        self.progress.counts["complete"] += 1

    def fail(self, run: SweepRun, event: Failed) -> None:
        """Record the error and raise it: a network that trained must also evaluate."""
        self.sweep.tracker.attach_error(run.key, event.details)
        raise RunsFailError(
            f"a final network must be tested, but the {run.title} failed: {event.reason}; mend that, and the same "
            "command resumes the sweep"
        )

    def interrupt(self, run: SweepRun) -> None:
        """The next sweep evaluates again; the run itself is complete."""


def _recipe(sweep: Sweep, champion: Confirmed, seed: int) -> Recipe:
    """Return the recipe of a final run: the champion's, at the length of a final, on all training images."""
    plan = sweep.plan
    derived = derive_seed(plan.seed, champion.source, plan.preset.seeds + seed + 1)
    images = plan.data_set.train_images + plan.data_set.val_images
    epochs = champion.recipe.epochs * plan.data_set.train_images / images  # as many steps, in passes over all images
    recipe = replace(champion.recipe, seed=derived, val_fraction=0.0, epochs=epochs)
    return plan.preset.final.extend(recipe, images, plan.data_set)
