"""The Optuna study: what cannot change, what a resumed study keeps, and where pruners judge."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.samplers import RandomSampler
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from cifar_core.budget import Budget, for_data_set, from_reference, to_reference
from cifar_core.data.data_set import CIFAR10
from cifar_core.recipe import Recipe
from sweeps.planning.limits import Limits
from sweeps.planning.plan import Plan
from sweeps.planning.presets import PRESETS
from sweeps.planning.search_space import reference_epochs
from sweeps.planning.space_file import SPACES, parse_space
from sweeps.store import Store
from sweeps.studies.storage import StudyError, open_storage
from sweeps.studies.study import (
    BASELINE,
    SAMPLERS,
    Beginning,
    ask,
    derive_seed,
    left_out,
    load_study,
    open_study,
    started_trials,
    trials_since_best,
    unfinished_trials,
)
from tests.sweeps import support

START = SPACES["fast"].starts[0]
MORE = Budget(flops=4e12, max_epochs=5)
names = (f"study {number}" for number in itertools.count())


@pytest.fixture(scope="module")
def storage() -> BaseStorage:
    """One storage for all tests; each has a study of its own in it."""
    return InMemoryStorage()


@pytest.fixture
def plan() -> Plan:
    return support.plan(study=next(names), pruner="halving")


def draw_one(study: optuna.Study, plan: Plan) -> dict[str, Any]:
    trial = ask(study, plan)
    plan.space.suggest(trial, Recipe())
    return trial.params


def draw(study: optuna.Study, plan: Plan, count: int) -> list[dict[str, Any]]:
    drawn = []
    for _ in range(count):
        trial = study.ask()
        plan.space.suggest(trial, Recipe())
        drawn.append(trial.params)
    return drawn


def test_the_trials_of_a_study_are_checked_before_it_goes_on(storage: BaseStorage, plan: Plan) -> None:
    seen: list[int | None] = []

    def check(trials: Sequence[FrozenTrial] | None) -> None:
        seen.append(None if trials is None else len(trials))

    study = open_study(plan, storage, check=check)
    open_study(plan, storage, check=check)
    assert seen == [None, len(study.trials)]


class TestSettings:
    @pytest.mark.parametrize(
        ("change", "was", "got"),
        [
            ({"preset": PRESETS["quick"]}, "preset smoke", "preset quick"),
            ({"preset": replace(PRESETS["smoke"], trial=MORE)}, "trial_flops 3e+12", "trial_flops 4e+12"),
            ({"space": SPACES["full"]}, "space fast", "space full"),
            ({"seed": 3}, "seed 0", "seed 3"),
            ({"starts": False}, "starts yes", "starts no"),
            ({"limits": Limits(parameters=9)}, "limits none", "limits at most 9 weights"),
        ],
    )
    def test_a_study_cannot_go_on_otherwise(
        self, storage: BaseStorage, plan: Plan, change: dict[str, Any], was: str, got: str
    ) -> None:
        open_study(plan, storage)
        with pytest.raises(StudyError) as error:
            open_study(replace(plan, **change), storage)
        assert str(error.value) == (
            f"study {plan.study!r} was started with {was}, but got {got}; give it another name with --study"
        )

    def test_a_study_cannot_go_on_with_other_data(self, storage: BaseStorage, plan: Plan) -> None:
        own = replace(plan, study=next(names), data_set=replace(CIFAR10, name="flowers", sha256="ab" * 32))
        changed = replace(own, data_set=replace(own.data_set, sha256="cd" * 32))
        open_study(own, storage)
        open_study(replace(own, data_set=replace(own.data_set, name="moved")), storage)
        with pytest.raises(StudyError) as error:
            open_study(changed, storage)
        assert str(error.value) == (
            f"study {own.study!r} was started with the data flowers (abababababab), but got flowers (cdcdcdcdcdcd), "
            "which has other pictures, labels or splits; give it another name with --study"
        )

    def test_recipes_for_very_few_images(self, storage: BaseStorage, plan: Plan) -> None:
        few = replace(plan, data_set=replace(CIFAR10, name="few", sha256="ab" * 32, train_images=20))
        study = open_study(few, storage, [Recipe(epochs=100.0)])
        recipe = few.space.suggest(study.ask(), Recipe(epochs=reference_epochs(20)))
        assert recipe.epochs == 10_000, "the most that a recipe may have"

    def test_a_study_cannot_go_on_in_a_space_that_changed(self, storage: BaseStorage, plan: Plan) -> None:
        text = plan.space.text
        changed = text.replace("high = 4.0", "high = 5.0").replace("[128, 256, 512]", "[256, 128, 512]")
        changed = changed.replace("[parameters.cutout]", "[parameters.clip_norm]").replace("freeze_first = 0.4", "")
        open_study(plan, storage)
        other = replace(plan, space=parse_space(Path("fast.toml"), changed))
        with pytest.raises(StudyError) as error:
            open_study(other, storage)
        said = str(error.value)
        assert said.startswith(
            f"study {plan.study!r} was started with parameters.batch_size.choices = [128, 256, 512], but the space now "
            "has [256, 128, 512]; with parameters.learning_rate_multiple.high = 4.0, but the space now has 5.0; "
            "with parameters.cutout, which the space no longer has; without parameters.clip_norm, which the space now "
            "has; with hold = ["
        )
        assert said.endswith("; give it another name with --study")

    def test_comments_description_and_the_order_of_tables_may_change(self, storage: BaseStorage, plan: Plan) -> None:
        open_study(plan, storage)
        head, *tables = plan.space.text.split("\n\n")[1:]
        holds = [table for table in tables if "[[hold]]" in table]
        others = [table for table in tables if "[[hold]]" not in table]
        [mixing] = [table for table in others if "[parameters.mix]" in table]
        others.remove(mixing)
        shuffled = "\n".join(["# mine", head.replace("airbench", "my"), *holds, mixing, *others[::-1]])
        same = parse_space(Path("fast.toml"), shuffled)
        assert list(same.parameters) != list(plan.space.parameters)
        open_study(replace(plan, space=same), storage)

    @pytest.mark.parametrize("recorded", range(5))
    def test_settings_that_a_crash_cut_short_are_completed(
        self, storage: BaseStorage, plan: Plan, recorded: int
    ) -> None:
        settings = open_study(plan, storage).user_attrs
        cut = replace(plan, study=next(names))
        crashed = optuna.create_study(study_name=cut.study, storage=storage, direction="maximize")
        for name in ("data", "train_images", "space_content", "space", "preset")[:recorded]:
            crashed.set_user_attr(name, settings[name])
        assert open_study(cut, storage).user_attrs == settings
        with pytest.raises(StudyError, match="was started with seed 0, but got seed 1"):
            open_study(replace(cut, seed=1), storage)

    def test_what_does_not_make_trials_incomparable_may_change(self, storage: BaseStorage, plan: Plan) -> None:
        first = open_study(plan, storage)
        other = replace(plan, trials=99, sampler="tpe", pruner="none", workers=2, threads=4, confirm=False)
        again = open_study(other, storage)
        assert (again._study_id, again.direction.name) == (first._study_id, "MAXIMIZE")


class TestBeginning:
    def test_without_known_good_points_it_is_the_first_trial(self, storage: BaseStorage, plan: Plan) -> None:
        study = open_study(replace(plan, starts=False), storage)
        for _ in range(2):
            ask(study, replace(plan, starts=False))
        assert [Beginning.of(trial) for trial in study.trials] == [Beginning.FIRST, None]

    def test_the_known_good_point_is_it_though_another_recipe_comes_first(
        self, storage: BaseStorage, plan: Plan
    ) -> None:
        study = open_study(plan, storage, [Recipe(model="five_conv")])
        ask(study, plan)
        assert [Beginning.of(trial) for trial in study.trials][:2] == [None, Beginning.KNOWN_GOOD]

    def test_it_is_tried_though_the_first_enqueued_recipe_is_the_same(self, storage: BaseStorage, plan: Plan) -> None:
        best = plan.space.recipe(START, Recipe(epochs=reference_epochs(plan.data_set.train_images)))
        study = open_study(plan, storage, [Recipe(model="five_conv"), best])
        assert [Beginning.of(trial) for trial in study.trials] == [None, None, Beginning.KNOWN_GOOD, None]
        assert draw(study, plan, 3)[1:] == [pytest.approx(START), START]
        assert len(open_study(plan, storage, [Recipe(model="five_conv"), best]).trials) == 4

    @pytest.mark.parametrize("enqueued", [0, 2])
    def test_a_first_trial_that_a_crash_cut_short_is_it_still(
        self, storage: BaseStorage, plan: Plan, enqueued: int
    ) -> None:
        unknown = replace(plan, starts=False)
        recipes = [Recipe(cutout=4), Recipe(cutout=8)][:enqueued]
        study = open_study(unknown, storage, recipes)
        ask(study, unknown)  # and the process dies before it sets anything of the trial
        again = open_study(unknown, storage, recipes)
        ask(again, unknown)
        assert [Beginning.of(trial) for trial in again.trials][:2] == [Beginning.FIRST, None]


class TestQueue:
    @pytest.mark.parametrize("resumed", [False, True])
    def test_a_study_begins_with_the_known_good_points_once(
        self, storage: BaseStorage, plan: Plan, resumed: bool
    ) -> None:
        if resumed:
            open_study(plan, storage)
        study = open_study(plan, storage)
        starts = plan.space.starts
        assert [trial.user_attrs for trial in study.trials] == [{BASELINE: Beginning.KNOWN_GOOD}, {}]
        assert (started_trials(study), study.metric_names) == (0, ["validation accuracy"])
        *first, other = draw(study, plan, 3)
        assert tuple(first) == starts
        assert other not in starts
        assert started_trials(study) == len(open_study(plan, storage).trials) == 3

    @pytest.mark.parametrize("left", [1, 2])
    def test_starting_points_that_a_crash_left_are_not_enqueued_again(
        self, storage: BaseStorage, plan: Plan, left: int
    ) -> None:
        crashed = optuna.create_study(study_name=plan.study, storage=storage, direction="maximize")
        marks = [{BASELINE: Beginning.KNOWN_GOOD}, {}]
        for start, attributes in list(zip(plan.space.starts, marks, strict=True))[:left]:
            crashed.enqueue_trial(start, user_attrs=attributes)
        assert [trial.user_attrs for trial in open_study(plan, storage).trials] == marks

    def test_half_of_the_trials_are_shared_out_among_the_models(self, storage: BaseStorage, plan: Plan) -> None:
        study = open_study(replace(plan, trials=12), storage)
        study.sampler = RandomSampler(seed=1)  # which alone gives another order
        models = [draw_one(study, replace(plan, trials=12))["model"] for _ in range(12)]
        assert models[:6] == ["airbench", "fast_resnet"] * 3, "starting points included"
        assert models[6:] != ["airbench", "fast_resnet"] * 3

    def test_a_model_that_breaks_the_limits_has_no_further_share(self, storage: BaseStorage, plan: Plan) -> None:
        plan = replace(plan, trials=12, starts=False)
        study, models = open_study(plan, storage), list[str]()
        for _ in range(4):
            trial = ask(study, plan)
            models.append(plan.space.suggest(trial, Recipe()).model)
            if models[-1] == "airbench":
                trial.set_constraint("parameters", 0.5)
        assert models == ["airbench"] + ["fast_resnet"] * 3

    def test_without_starts_nothing_waits(self, storage: BaseStorage, plan: Plan) -> None:
        assert not open_study(replace(plan, starts=False), storage).trials

    def test_an_enqueued_recipe_is_kept_to_the_last_digit(self, storage: BaseStorage, plan: Plan) -> None:
        recipe = Recipe(model="five_conv", learning_rate=0.1 + 0.2, weight_decay=1 / 3, cutout=9, seed=2**62 + 1)
        study = open_study(plan, storage, [recipe])
        waiting = study.trials[0]
        assert waiting.state == TrialState.WAITING
        assert Recipe.from_dict(waiting.user_attrs["enqueued_recipe"]) == recipe
        assert draw(study, plan, 2) == [plan.space.nearest(recipe), START]

    def test_a_recipe_of_a_short_run_is_told_as_the_point_that_it_was_drawn_at(
        self, storage: BaseStorage, plan: Plan
    ) -> None:
        drawn = plan.space.recipe(START, Recipe(epochs=reference_epochs(45_000)))
        assert drawn.reset_norms, "so that its rate goes with its length"
        study = open_study(plan, storage, [from_reference(drawn, 0.1)])
        assert draw(study, plan, 1) == [pytest.approx(START)]

    def test_a_recipe_of_other_data_is_told_as_the_point_that_it_was_drawn_at(
        self, storage: BaseStorage, plan: Plan
    ) -> None:
        drawn = plan.space.recipe(START, Recipe(epochs=reference_epochs(1_000)))  # drawn for a thousand images
        for passes in (9.5, 40.0):
            recipe = for_data_set(from_reference(drawn, passes), 1_000, plan.data_set)
            assert recipe.epochs == pytest.approx(passes * 1_000 / plan.data_set.train_images)
            assert plan.space.nearest(to_reference(recipe, reference_epochs(45_000))) == pytest.approx(START)
        assert for_data_set(drawn, 1e9, plan.data_set).epochs == 10_000, "and no more than a recipe may have"
        assert draw(open_study(plan, storage, [recipe]), plan, 1) == [pytest.approx(START)]

    @pytest.mark.parametrize(
        ("started", "trials", "lines"),
        [
            (0, 9, []),
            (0, 2, ["the study ends after 2 trials, which leaves out 1 queued recipe; --trials 3 tries all"]),
            (1, 1, ["the study ends after 1 trial, which leaves out 2 queued recipes; --trials 3 tries all"]),
        ],
    )
    def test_recipes_that_no_trial_is_left_for_are_counted(
        self, storage: BaseStorage, plan: Plan, started: int, trials: int, lines: list[str]
    ) -> None:
        study = open_study(replace(plan, starts=False), storage, [Recipe(cutout=cut) for cut in (2, 4, 6)])
        draw(study, plan, started)
        assert list(left_out(study, trials)) == lines

    def test_enqueued_recipes_are_tried_before_others_also_in_a_study_that_has_started_trials(
        self, storage: BaseStorage, plan: Plan
    ) -> None:
        draw(open_study(plan, storage), plan, 3)
        recipes = [Recipe(cutout=4), Recipe(cutout=8)]
        assert draw(open_study(plan, storage, recipes), plan, 2) == [plan.space.nearest(recipe) for recipe in recipes]

    def test_the_same_command_again_does_not_enqueue_a_recipe_again(self, storage: BaseStorage, plan: Plan) -> None:
        recipes = [Recipe(cutout=4), Recipe(cutout=4)]  # twice on purpose: that is what was asked
        draw(open_study(plan, storage, recipes), plan, 1)
        study = open_study(plan, storage, [*recipes, Recipe(cutout=8)])
        waiting = [trial for trial in study.trials if trial.state == TrialState.WAITING]
        asked = [trial.user_attrs.get("enqueued_recipe", {"cutout": "start"})["cutout"] for trial in waiting]
        assert asked == [4, "start", "start", 8]

    def test_nor_one_that_a_version_with_fewer_fields_enqueued(self, storage: BaseStorage, plan: Plan) -> None:
        recipe = Recipe(cutout=4)
        fields = {name: value for name, value in recipe.to_dict().items() if name != "freeze_first"}
        [enqueued, *_] = open_study(plan, storage, [recipe]).trials
        storage.set_trial_user_attr(enqueued._trial_id, "enqueued_recipe", fields)
        assert len(open_study(plan, storage, [recipe]).trials) == 1 + len(plan.space.starts)


class TestSamplers:
    @pytest.mark.parametrize("sampler", SAMPLERS)
    def test_the_seed_decides_what_is_drawn_and_a_resumed_study_draws_other_points(
        self, storage: BaseStorage, plan: Plan, sampler: str
    ) -> None:
        def drawn(seed: int) -> list[dict[str, Any]]:
            one = replace(plan, study=next(names), sampler=sampler, seed=seed)
            return [params for _ in range(3) for params in draw(open_study(one, storage), one, 4)]

        first = drawn(1)
        assert first == drawn(1)
        assert first[:4] != drawn(2)[:4]
        rates = [params["learning_rate_multiple"] for params in first]
        assert len(set(rates)) == len(rates) - 1, "those of the two starting points are equal"


def test_trials_that_were_never_trained_do_not_count_as_trials_since_the_best() -> None:
    study = optuna.create_study(direction="maximize")
    for value, excess in ((0.5, 0.0), (None, 0.5), (0.4, 0.0), (None, 0.5)):
        trial = study.ask()
        trial.set_constraint("parameters", excess)
        study.tell(trial, value, TrialState.PRUNED if value is None else TrialState.COMPLETE)
    assert trials_since_best(study) == 1


@pytest.mark.slow
def test_a_trial_that_a_process_left_is_the_same_trial_in_the_next(tmp_path: Path, plan: Plan) -> None:
    store = Store.locate(tmp_path / "store")
    store.create()
    left = open_study(plan, open_storage(store.storage_url)).ask()
    left.report(0.5, 1)
    storage = open_storage(store.storage_url)
    [trial] = unfinished_trials(open_study(plan, storage), storage)
    assert trial.number == left.number
    trial.set_user_attr("reason", "resumed")
    [stored] = load_study(store, plan.study).get_trials()[:1]
    assert stored.user_attrs == {BASELINE: Beginning.KNOWN_GOOD, "reason": "resumed"}
    assert stored.intermediate_values == {1: 0.5}


def test_seeds_differ_for_studies_trials_and_confirmation_runs() -> None:
    seeds = [derive_seed(study, trial) for study in range(10) for trial in range(100)]
    seeds += [derive_seed(study, trial, run + 1) for study in range(10) for trial in range(100) for run in range(3)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert derive_seed(1, 2) == derive_seed(1, 2)
    assert derive_seed(1, 2) != derive_seed(2, 1)
