from __future__ import annotations

import re
from dataclasses import replace

import pandas as pd
import pytest

from experiments.decision.facts import Facts
from experiments.decision.verdict import ways_of
from experiments.pages.blocks import Figure, Table
from experiments.pages.text import CitedText, listed
from experiments.reading.study import TestSetEvaluations as Evaluations
from experiments.sections.accuracy import evaluations_sentence, section, validation_against_test
from tests.experiments.support import figures, said, with_artifacts, with_scenario, with_study, with_test


def benchmarks(facts: Facts) -> Figure:
    return figures(section(facts))["benchmarks"]


@pytest.mark.parametrize(
    ("mean", "half", "words"),
    [
        (0.71, 0.01, "clears the 70 % bar; the whole 95 % interval"),
        (0.70, 0.01, "meets the 70 % bar, but its 95 % interval"),
        (0.6999, 0.01, "misses the 70 % bar, though its 95 % interval"),
        (0.6, 0.01, "being over 50 %, it is a start"),
        (0.5001, 0.01, "being over 50 %, it is a start"),
        (0.50, 0.01, "is not over the 50 % that counts as a start"),
        (0.45, 0.01, "is not over the 50 % that counts as a start"),
        (0.4499, 0.01, "needs work on architecture, loss and optimiser"),
        (0.90, 0.001, "5.48 points more accurate than the published five_conv network (84.52 %"),
        (0.846, 0.001, "cannot be told from the published five_conv network"),
        (0.80, 0.001, "4.52 points less accurate than the published five_conv network"),
        (0.801, 0.001, "still at or above the bar"),
        (0.79, 0.001, "on both sides of the bar"),
        (0.739, 0.001, "below the bar"),
        (0.98, 0.001, "What can be downloaded is reported to reach more"),
        (0.995, 0.001, ""),
    ],
)
def test_test_accuracy_is_compared_with_bar_and_published_figures(
    demo: Facts, mean: float, half: float, words: str
) -> None:
    text = said(section(with_test(demo, mean, half)), "performance")
    assert words in text
    assert ("What can be downloaded is reported to reach more" in text) == (mean < 0.995)


@pytest.mark.parametrize(
    ("mean", "half", "words"),
    [
        (0.69999, 0.01, "At 69.999 % the network misses the 70 % bar, though its 95 % interval, 69.00 to 71.00 %, "),
        (0.69, 0.00999, "At 69.00 % the network misses the 70 % bar; "),
        (0.72, 0.02004, "At 72.00 % the network meets the 70 % bar, but its 95 % interval, 69.996 to 74.004 %, "),
        (0.69, 0.01004, "though its 95 % interval, 67.996 to 70.004 %, reaches it."),
        (0.72, 0.02, "clears the 70 % bar; the whole 95 % interval, 70.00 to 74.00 %, does."),
        (0.500001, 0.01, "At 50.0001 % the network misses the 70 % bar; being over 50 %, it is a start."),
        (0.449999, 0.01, "At 44.9999 % the network misses the 70 % bar; being under 45 %, it needs work"),
        (0.73996, 0.001, "that would leave 63.996 to 69.996 %, below the bar."),
    ],
)
def test_an_accuracy_reads_on_the_side_of_the_bar_on_which_it_is(
    demo: Facts, mean: float, half: float, words: str
) -> None:
    assert words in said(section(with_test(demo, mean, half)), "performance")


@pytest.mark.parametrize(
    ("often", "text"), [(0, "Another training may"), (4, "as the scenario has 4 times a year, may")]
)
def test_retraining_that_a_scenario_has_not_is_not_mentioned(demo: Facts, often: float, text: str) -> None:
    one = with_scenario(with_test(demo, 0.9), retraining_per_year=often)
    assert any(f"{text} lie outside" in block.text for block in section(one).blocks if isinstance(block, CitedText))


def test_runs_that_diverged_are_not_in_the_mean_and_counted(demo: Facts) -> None:
    final = demo.study.final
    facts = with_study(demo, final=pd.concat([final, final.assign(state="pruned"), final.assign(state="failed")]))
    words = "Ours is the mean of 2 of 4 runs of the champion, as 2 diverged; its 95 % interval combines"
    assert any(words in block.text for block in section(facts).blocks if isinstance(block, CitedText))


def test_without_a_test_only_validation_accuracy_is_said_and_that_it_flatters(unconfirmed: Facts) -> None:
    made = section(unconfirmed)
    (sentence,) = made.recommendation["performance"]
    assert "is not known yet" in sentence.text
    assert "the figure flatters" in sentence.text
    assert "cannot be said before a test" in said(made, "learning")
    search = unconfirmed.study.search
    complete = search[search["state"] == "complete"].head(1)
    [alone] = section(with_study(unconfirmed, search=complete)).recommendation["performance"]
    assert alone.text.endswith(" %."), "nothing was selected"
    pruned = search[(search["state"] == "pruned") | search.index.isin(complete.index)]
    limited = pruned.assign(
        **{"metrics.val/accuracy": pruned["metrics.val/accuracy"].where(pruned["state"] != "pruned")}
    )
    for some, flatters in ((pruned, True), (limited, False)):
        [sentence] = section(with_study(unconfirmed, search=some)).recommendation["performance"]
        assert ("the figure flatters" in sentence.text) == flatters


@pytest.mark.parametrize(
    ("used", "words"),
    [
        (
            Evaluations(True, 2, 5, 0),
            "used 2 times for this study; the store's record has 5 uses of test sets in all, with exports, scored "
            "answers, adapted networks",
        ),
        (Evaluations(True, 1, 1, 0), "once for this study; 2 runs"),
        (
            Evaluations(True, 2, 3, adapted=1),
            "was used 2 times for this study, and once for its adapted network.",
        ),
        (Evaluations(True, 1, 1, 0), "2 runs carry a test accuracy, so the record is incomplete"),
        (Evaluations(True, 2, 2, 1), "1 line of the record could not be read"),
        (
            Evaluations(True, 3, 3, 0, 1),
            "used 3 times for this study, once of them by a run that was on record before.",
        ),
        (Evaluations(False), "2 runs used the test set, but this store has no record"),
    ],
)
def test_evaluations_of_the_test_set_are_printed(demo: Facts, used: Evaluations, words: str) -> None:
    assert words in evaluations_sentence(with_study(demo, test_set_evaluations=used)).text


def test_no_accuracy_to_expect_is_below_zero(demo: Facts) -> None:
    weak = section(with_test(demo, 0.05))
    assert "4 to 10 points; that would leave 0.0 to 1.0 %, below the bar." in said(weak, "performance")
    assert {n.name: n.value for n in weak.numbers}["fresh.accuracy_less_most"] == 0


def test_every_way_of_unknown_accuracy_is_named(demo: Facts) -> None:
    words = "Accuracy on these images is neither published nor measured for "
    vendors = listed([vendor.name for vendor in demo.scenario.vendors])
    assert f"{words}{vendors}." in said(section(demo), "performance")
    own = with_study(demo, data_set=replace(demo.study.data_set, sha256="1"))
    everyone = listed([*(way.title for way in ways_of(own)[1:])])
    assert "ViT-B/16" in everyone
    assert f"{words}{everyone}." in said(section(own), "performance")


def test_figures_on_other_test_images_are_compared_with_nothing(demo: Facts) -> None:
    def published(facts: Facts, same_test: bool) -> Facts:
        accuracies = tuple(replace(a, same_test=same_test) for a in facts.published.accuracies)
        return replace(facts, published=replace(facts.published, accuracies=accuracies))

    same, other = (section(published(demo, same_test)) for same_test in (True, False))
    assert "five_conv network" in said(same, "performance")
    for words in ("five_conv network", "benchmark", "What can be downloaded"):
        assert words not in said(other, "performance")
    caption = benchmarks(published(demo, same_test=False)).caption.text
    assert "Of the 0 published figures drawn here, 0 lie above" in caption
    assert len(benchmarks(published(demo, same_test=False)).figure.data) == 1, "ours"
    for made, words in ((same, "All are accuracies"), (other, "All but those marked are accuracies")):
        assert any(isinstance(b, CitedText) and b.text.startswith(words) for b in made.blocks)
    [table] = [block for block in other.blocks if isinstance(block, Table)]
    assert [row.cells[1].note for row in table.rows[1:]] == ["on other test images"] * len(demo.published.accuracies)


def test_the_best_trial_is_not_said_to_have_learnt_from_its_validation_images(demo: Facts, unconfirmed: Facts) -> None:
    for facts, words in ((demo, "CIFAR-10 alone"), (unconfirmed, "CIFAR-10 alone, without its validation images")):
        [table] = [block for block in section(facts).blocks if isinstance(block, Table)]
        assert table.rows[0].cells[2].text == words


def test_benchmarks_are_ordered_on_an_axis_that_holds_ours_with_its_interval(demo: Facts) -> None:
    assert benchmarks(with_test(demo, 0.386)).figure.layout.xaxis.range[0] == 30
    assert benchmarks(demo).figure.layout.xaxis.range[0] == 40
    traces = benchmarks(demo).figure.data
    values = [trace.x[0] for trace in traces]
    assert values == sorted(values)
    assert [trace.x[0] for trace in traces if trace.error_x.array] == [pytest.approx(92.3)]
    hollow = {trace.x[0] for trace in traces if trace.marker.symbol == "circle-open"}
    assert hollow == {78.9, 93.56, 95.87, 96.8, 98.5, 99.0, 99.5}  # trained on more than CIFAR-10
    assert f"Of the {len(traces) - 1} published figures drawn here, " in benchmarks(demo).caption.text


def test_without_a_test_accuracy_the_benchmarks_stand_alone(demo: Facts, unconfirmed: Facts) -> None:
    alone = benchmarks(unconfirmed)
    assert len(alone.figure.data) == len(benchmarks(demo).figure.data) - 1
    assert "no test accuracy" in alone.caption.text


def test_accuracy_with_test_time_augmentation_stands_beside_the_plain_one(demo: Facts) -> None:
    assert demo.augmented is None
    assert "test-time augmentation" not in said(section(demo), "performance")
    assert demo.test is not None
    augmented = replace(demo.test, mean=0.95, low=0.94, high=0.96)
    study = replace(demo.study, final=demo.study.final.assign(**{"params.tta": "mirror-shift"}))
    shown = section(replace(demo, augmented=augmented, study=study))
    expected = (
        "With test-time augmentation (6 views of each image, at as many times the work) it reaches 95.00 % "
        "(94.00 to 96.00 %); the verdict rests on the plain accuracy."
    )
    assert expected in said(shown, "performance")
    assert {n.name: n.value for n in shown.numbers}["accuracy.test_augmented.mean"] == 0.95


def test_a_final_is_not_compared_with_the_shorter_runs_that_it_was_chosen_by(demo: Facts) -> None:
    assert list(demo.study.validated["source_trial"]) == [3, 3]
    (sentence,) = validation_against_test(demo)
    assert sentence.text == (
        "On the validation images its recipe reached 92.70 % when it was chosen. The final was trained longer, on all "
        "images, and reaches 92.30 % of the test images."
    )


def test_a_final_below_its_validation_accuracy_beyond_chance_is_said(demo: Facts) -> None:
    final = demo.study.final.assign(**{"metrics.test_class/frog": 0.1})
    (sentence,) = validation_against_test(with_test(with_study(demo, final=final), 0.80))
    assert re.search(
        r" reaches 80\.00 % of the test images\. That is 12\.70 points less \(95 % interval [\d.]+ to [\d.]+\), more "
        r"than chance explains; the class frog has the largest part in it, with [\d.]+ % of its validation and 10\.0 % "
        r"of its test images right\.$",
        sentence.text,
    )
    better = demo.study.final.assign(**{f"metrics.test_class/{name}": 0.99 for name in demo.study.data_set.classes})
    (sentence,) = validation_against_test(with_test(with_study(demo, final=better), 0.80))  # of other shares of classes
    assert sentence.text.endswith(", more than chance explains.")
    (sentence,) = validation_against_test(with_artifacts(with_test(demo, 0.80), confusions={}))
    assert sentence.text.endswith("more than chance explains.")
    for above in (0.926, 0.99):
        (sentence,) = validation_against_test(with_test(demo, above))
        assert sentence.text.endswith(" of the test images.")
