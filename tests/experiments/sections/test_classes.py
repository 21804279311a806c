from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cifar_core.data.data_set import CIFAR10
from experiments.decision.facts import Facts
from experiments.pages.blocks import Figure, Missing, Table
from experiments.pages.text import CitedText
from experiments.sections import classes
from experiments.sections.classes import ClassAccuracy, ClassResults, Confusion, section
from experiments.stats import Estimate, clopper_pearson, mean_accuracy
from tests.experiments.support import figures, known, with_artifacts, with_study


@pytest.fixture
def found(demo: Facts) -> ClassResults:
    return classes.class_results(demo.study)


def matrix(*shares: tuple[float, ...]) -> Confusion:
    names = ("a", "b", "c")[: len(shares)]
    return Confusion(names, shares, ("r",), "test", (10,) * len(shares))


def with_weakest(found: ClassResults, accuracy: float, low: float | None = None, high: float = 0) -> ClassResults:
    interval = None if low is None else Estimate(accuracy, low, high, ("r",), 1000)
    return replace(found, rows=(ClassAccuracy("cat", None, accuracy, interval), ClassAccuracy("ship", None, 0.9)))


def test_the_weakest_pair_counts_both_directions() -> None:
    confused = matrix((0.8, 0.2, 0.0), (0.0, 0.9, 0.1), (0.0, 0.15, 0.85))
    pairs = confused.pairs()
    assert [pair[:2] for pair in pairs] == [("b", "c"), ("a", "b")]
    assert [pair[2] for pair in pairs] == pytest.approx([0.125, 0.1])
    assert "The weakest pair is b and c: 12.5 %" in classes.weakest_pair(confused).text
    perfect = matrix((1.0, 0.0), (0.0, 1.0))
    assert perfect.pairs() == []
    uneven = replace(confused, classes=("a", "b"), shares=((0.99, 0.01), (0.41, 0.59)), counts=(900, 100))
    assert uneven.pairs()[0][2] == pytest.approx((9 + 41) / 1000)
    assert classes.weakest_pair(perfect).text == "No image of the test set is taken for another class."


def test_a_class_of_one_run_has_the_exact_interval_of_its_images(demo: Facts) -> None:
    confusion = known(classes.confusion_of(demo.study))
    champion = demo.study.champion
    one, both = (classes.class_accuracies(runs, runs, confusion, CIFAR10)[0] for runs in (champion.head(1), champion))
    assert one.name == both.name == "cat"
    interval = known(one.interval)
    assert (interval.low, interval.high) == pytest.approx(clopper_pearson(known(one.test), 1000, 10))
    assert known(both.interval).low < interval.low  # seed variance widens the interval
    assert all(row.interval is None for row in classes.class_accuracies(champion, champion, None, CIFAR10))


def test_metrics_stand_for_classes_with_any_letters(demo: Facts) -> None:
    own = replace(CIFAR10, classes=("airplane", "automobile", "bird", "c/a|t"), groups=())
    runs = demo.study.champion.rename(columns={"metrics.test_class/cat": "metrics.test_class/c_a_t"})
    names = [row.name for row in classes.class_accuracies(runs, runs.head(0), None, own) if row.test is not None]
    assert "c/a|t" in names
    assert "c_a_t" not in names
    assert all(row.group == "" for row in classes.class_accuracies(runs, runs, None, own))


def test_the_balanced_accuracy_is_given_where_classes_are_uneven(demo: Facts) -> None:
    study = demo.study
    assert classes.balanced_sentence(study, "test") == ()
    final = study.final.assign(**{"metrics.test/balanced_accuracy": [0.8, 0.9]})
    [said] = classes.balanced_sentence(replace(study, final=final), "test")
    assert said.text == (
        "The classes have different numbers of test images: the balanced accuracy, the mean over the classes, is "
        "85.00 %."
    )


def test_validation_is_of_the_confirmation_as_the_final_trained_on_all_images(demo: Facts, found: ClassResults) -> None:
    study = demo.study
    confirmed = study.confirm[study.confirm["source_trial"].isin(study.champion["source_trial"])]
    assert found.validated == tuple(confirmed["run_id"])
    assert set(found.run_ids).isdisjoint(found.validated)
    for row in found.rows:
        assert row.validation == pytest.approx(confirmed[f"metrics.val_class/{row.name}"].mean())
        assert row.test == pytest.approx(study.champion[f"metrics.test_class/{row.name}"].mean())
    numbers = {number.name: number for number in section(demo).numbers}
    assert numbers["class.cat.validation"].sources == tuple(f"run/{run_id}" for run_id in found.validated)
    assert numbers["class.cat.test"].sources == tuple(f"run/{run_id}" for run_id in found.run_ids)


@pytest.mark.parametrize(
    ("accuracy", "low", "high", "words"),
    [
        (0.7, None, 0, "clears the bar too"),
        (0.699, None, 0, "misses the bar"),
        (0.7, 0.71, 0.75, "clears the bar too"),
        (0.7, 0.6, 0.8, "cannot be told"),
        (0.7, 0.5, 0.69, "(95 % interval 50.0 to 69.0 %) and by itself misses the bar"),
    ],
)
def test_the_weakest_class_needs_its_interval_to_clear_the_bar(
    demo: Facts, found: ClassResults, accuracy: float, low: float | None, high: float, words: str
) -> None:
    (sentence,) = classes.weakest_class(with_weakest(found, accuracy, low, high), demo.bar)
    assert sentence.text.startswith(f"The weakest class, cat, is right {100 * accuracy:.1f} % of the time")
    assert words in sentence.text


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.65, 0.69996, "(95 % interval 65.000 to 69.996 %) and by itself misses the bar."),
        (0.69996, 0.75, "(95 % interval 69.996 to 75.000 %) and by itself cannot be told from the bar."),
        (0.7, 0.75, "(95 % interval 70.0 to 75.0 %) and by itself clears the bar too."),
        (None, 0, "is right 69.98 % of the time and by itself misses the bar."),
    ],
)
def test_the_weakest_class_reads_on_the_side_of_the_bar_on_which_it_is(
    demo: Facts, found: ClassResults, low: float | None, high: float, words: str
) -> None:
    (sentence,) = classes.weakest_class(with_weakest(found, 0.6998, low, high), demo.bar)
    assert sentence.text.endswith(words)


def test_where_all_classes_are_equal_none_is_the_weakest(demo: Facts, found: ClassResults) -> None:
    level = mean_accuracy([0.9], ("r",), 1000)
    equal = replace(found, rows=tuple(ClassAccuracy(name, None, 0.9, level) for name in ("cat", "ship")))
    (sentence,) = classes.weakest_class(equal, demo.bar)
    assert sentence.text.startswith("Every class is right 90.0 % of the time (95 % interval ")
    (sentence,) = classes.evenness(equal)
    assert "all are right equally often, so none needs special treatment" in sentence.text


@pytest.mark.parametrize(
    ("weakest", "images", "words"),
    [
        (0.80, 1000, "Accuracy differs between classes on"),
        (0.801, 1000, "Whether accuracy differs between classes is not known from"),
        (0.88, 1000, "Accuracy hardly differs between classes on"),
        (0.88, 50, "Whether accuracy differs between classes is not known from"),
        (0.70, 5, "Whether accuracy differs between classes is not known from"),
    ],
)
def test_classes_are_even_or_uneven_only_beyond_chance(
    found: ClassResults, weakest: float, images: int, words: str
) -> None:
    shares = {"cat": weakest, "ship": 0.9}
    rows = [ClassAccuracy(n, None, share, mean_accuracy([share], ("r",), images)) for n, share in shares.items()]
    (sentence,) = classes.evenness(replace(found, rows=tuple(rows)))
    assert sentence.text.startswith(f"{words} the test images: cat ({100 * weakest:.1f} %) lies ")
    assert ("; the largest gap is " in sentence.text) == words.startswith("Whether")
    cure = "More training images of the weak classes, or adapting a pretrained network, may improve that."
    assert sentence.text.endswith(cure) == words.startswith("Accuracy differs")


def of_right(right: Sequence[int], images: Sequence[int]) -> tuple[ClassAccuracy, ...]:
    """Classes "0", "1", ... with so many right test images, the weakest first."""
    rows = [
        ClassAccuracy(str(n), None, k / count, mean_accuracy([k / count], ("r",), count, family=len(images)))
        for n, (k, count) in enumerate(zip(right, images, strict=True))
    ]
    return tuple(sorted(rows, key=lambda row: row.shown))


@pytest.mark.parametrize(
    ("images", "accuracy"),
    [((1000,) * 10, 0.92), ((50,) * 30, 0.85), ((100,) * 100, 0.8), ((10,) * 300, 0.8), ((1, 3, 10, 50, 200) * 4, 0.8)],
)
def test_classes_that_differ_by_chance_are_not_called_uneven_and_none_misses_the_bar(
    demo: Facts, found: ClassResults, images: tuple[int, ...], accuracy: float
) -> None:
    draw = np.random.default_rng(len(images))
    said = []
    for _ in range(100):
        rows = of_right(draw.binomial(images, accuracy).tolist(), images)
        again, bar = replace(found, rows=rows), replace(demo.bar, target=accuracy - 0.001)
        (evenness,), (weakest,) = classes.evenness(again), classes.weakest_class(again, bar)
        said.append(evenness.text.startswith("Accuracy differs") or "misses the bar" in weakest.text)
    assert sum(said) <= 5


def test_a_class_of_a_few_images_hides_none_that_is_known_to_be_weak(demo: Facts, found: ClassResults) -> None:
    rows = of_right((0, 3, 95, 480), (1, 80, 100, 500))
    (said,) = classes.evenness(replace(found, rows=rows))
    words = "Accuracy differs between classes on the test images: 1 (3.8 %) lies 92.2 points under 3 (96.0 %). "
    assert said.text.startswith(words)
    (said,) = classes.weakest_class(replace(found, rows=rows), replace(demo.bar, target=0.8))
    interval = known(rows[1].interval)
    ends = f"{100 * interval.low:.1f} to {100 * interval.high:.1f} %"
    assert said.text == f"The class 1 is right 3.8 % of the time (95 % interval {ends}) and by itself misses the bar."


def test_a_class_of_a_few_images_that_were_right_is_not_known_to_clear_the_bar(
    demo: Facts, found: ClassResults
) -> None:
    rows = of_right((3, 960, 970), (3, 1000, 1000))
    (said,) = classes.weakest_class(replace(found, rows=rows), replace(demo.bar, target=0.9))
    assert said.text.startswith("The class 0 is right 100.0 % of the time (95 % interval ")
    assert said.text.endswith(" to 100.0 %) and by itself cannot be told from the bar.")
    (said,) = classes.evenness(replace(found, rows=rows))
    assert said.text.startswith("Whether accuracy differs between classes is not known from the test images: ")


@pytest.mark.parametrize(
    ("weak", "words"), [(1, "misses the bar."), (2, "bar, as does 1."), (9, "bar, as do 1, 2, 3, 4, 5, 6 and 2 more.")]
)
def test_the_classes_that_miss_the_bar_are_named(demo: Facts, found: ClassResults, weak: int, words: str) -> None:
    rows = of_right((*range(100, 100 + weak), 990), (1000,) * (weak + 1))
    (said,) = classes.weakest_class(replace(found, rows=rows), demo.bar)
    assert said.text.startswith("The weakest class, 0, is right 10.0 % of the time ")
    assert said.text.endswith(words)


def test_names_that_are_numbers_are_names_in_the_figures(demo: Facts) -> None:
    for picture in classes.section(demo).pictures:
        assert isinstance(picture, Figure)
        assert picture.figure.layout.yaxis.type == "category"
        places = {(mark.x, mark.y) for mark in picture.figure.layout.annotations}
        assert all(isinstance(place, int) for pair in places for place in pair), "a name such as 10 would be a place"


def test_a_group_is_weaker_only_beyond_chance(found: ClassResults) -> None:
    animals, vehicles = found.groups["animals"], found.groups["vehicles"]
    for groups, words in (
        ({"animals": animals, "vehicles": vehicles}, "Animals are the weaker group, by"),
        ({"animals": vehicles, "vehicles": animals}, "Vehicles are the weaker group, by"),
        ({"animals": animals, "vehicles": animals}, "Animals and vehicles do not differ in accuracy beyond chance"),
    ):
        (sentence,) = classes.weaker_group(replace(found, groups=groups))
        assert words in sentence.text


def test_equal_classes_of_few_images_are_not_set_against_each_other(found: ClassResults) -> None:
    rows = [ClassAccuracy(name, None, 1.0, mean_accuracy([1.0], ("r",), 5)) for name in ("cat", "ship")]
    (sentence,) = classes.evenness(replace(found, rows=tuple(rows)))
    assert sentence.text == (
        "Whether accuracy differs between classes is not known from the test images: all are equal here; the largest "
        "gap is 0.0 to 43.4 points (95 % interval)."
    )


def test_images_of_a_class_are_given_where_they_differ(demo: Facts) -> None:
    matrix = np.eye(10, dtype=np.int64) * np.arange(1, 11) * 1000
    for confusions, columns in (
        (demo.study.artifacts.confusions, 5),
        (dict.fromkeys(demo.subject_runs, matrix), 6),
    ):
        made = section(with_artifacts(demo, confusions=confusions))
        [table] = [block for block in made.blocks if isinstance(block, Table)]
        assert {len(row.cells) for row in table.rows} == {len(table.titles)} == {columns}
    assert table.titles[-1] == "Test images"
    images = {row.cells[0].text: row.cells[-1].text for row in table.rows}
    assert (images["airplane"], images["truck"]) == ("1,000", "10,000")
    assert (images["all vehicles"], images["all animals"]) == ("22,000", "33,000")
    hovers = figures(made)["classes"].figure.data[-1].customdata
    assert "airplane (1,000 images)" in hovers


def test_a_matrix_of_many_classes_keeps_a_width_for_its_numbers(demo: Facts) -> None:
    def width(count: int) -> Any:
        names = tuple(f"class {number}" for number in range(count))
        confusions = dict.fromkeys(demo.subject_runs, np.eye(count, dtype=np.int64))
        figure = figures(section(with_artifacts(demo, confusions=confusions, classes=names)))["confusion"].figure
        assert list(figure.layout.xaxis.ticktext) == list(figure.layout.yaxis.ticktext) == list(names)
        return figure.layout.width

    assert width(12) is None
    assert width(22) > 22 * 19


def test_the_confusion_figure_colours_errors_only(demo: Facts) -> None:
    figure = figures(section(demo))["confusion"]
    assert all(figure.figure.data[0].z[i][i] is None for i in range(10))
    bold = [a.text for a in figure.figure.layout.annotations if a.text.startswith("<b>")]
    assert len(bold) == 10
    confusions = {run_id: np.eye(10, dtype=np.int64) * 10 for run_id in demo.subject_runs}
    right = figures(section(with_artifacts(demo, confusions=confusions)))["confusion"]
    assert right.figure.data[0].zmax == 1, "else no errors at all have the colour of the largest"


def test_of_many_classes_the_most_confused_are_drawn(demo: Facts) -> None:
    few = figures(section(demo))["confusion"]
    assert few.caption.text.startswith("Percent of each true class; rows add up to 100, blank is under 0.5. The weak")
    names = tuple(f"class {number}" for number in range(31))
    right = np.eye(31, dtype=np.int64) * 10
    wrong = right.copy()
    wrong[7, 30], wrong[3, 7] = 2, 1
    confusions = dict.fromkeys(demo.subject_runs, wrong)
    many = figures(section(with_artifacts(demo, confusions=confusions, classes=names)))["confusion"]
    assert many.caption.text == (
        "Percent of each true class, of the 3 most confused of 31 classes; blank is under 0.5. The weakest pair is "
        "class 7 and class 30: 9.1 % of the images of the two in the test set are taken for the other."
    )
    assert list(many.figure.data[0].x) == ["class 3", "class 7", "class 30"]
    faultless = section(with_artifacts(demo, confusions=dict.fromkeys(confusions, right), classes=names))
    assert "confusion" not in figures(faultless)
    assert isinstance(said := faultless.blocks[-1], CitedText)
    assert said.text == "No image of the test set is taken for another class."


def test_of_many_classes_the_weakest_are_listed(demo: Facts) -> None:
    more = {f"metrics.test_class/class {number}": number / 100 for number in range(31)}
    made = section(with_study(demo, final=demo.study.final.assign(**more)))
    figure = figures(made)["classes"]
    assert list(figure.figure.data[-1].y) == [f"class {number}" for number in range(30)]
    assert list(figure.figure.layout.yaxis.ticktext) == [f"class {number}" for number in range(30)], "none is left out"
    assert "These are the weakest 30 of 41 classes; report.json has all." in figure.caption.text
    [table] = [block for block in made.blocks if isinstance(block, Table)]
    assert [row.cells[0].text for row in table.rows if not row.style] == [f"class {n}" for n in range(30)]
    assert "class.class 30.test" in {number.name for number in made.numbers}


def test_without_a_champion_the_classes_are_those_of_the_validation_images(demo: Facts, unconfirmed: Facts) -> None:
    tested, validated = (figures(section(facts))["classes"] for facts in (demo, unconfirmed))
    assert [mark.name for mark in tested.figure.data] == ["validation", "test with 95 % interval"]
    assert [mark.name for mark in validated.figure.data] == ["validation with 95 % interval"]
    unkept = section(with_artifacts(demo, confusions={}))
    assert unkept.blocks[-1] == Missing("There is no confusion matrix yet.")
    made = section(unconfirmed)
    assert made.recommendation["performance"] == ()
    assert "on the validation images" in made.recommendation["customisation"][0].text


def test_a_class_that_was_not_tested_does_not_count_as_the_weakest_one(found: ClassResults) -> None:
    rows = (ClassAccuracy("rose", 0.3, None), ClassAccuracy("cat", 0.9, 0.88), ClassAccuracy("dog", 0.9, 0.9))
    [said] = classes.evenness(replace(found, rows=rows))
    assert said.text.endswith("from the test images: cat (88.0 %) lies 2.0 points under dog (90.0 %).")
