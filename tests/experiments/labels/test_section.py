from __future__ import annotations

from dataclasses import replace

import pytest

from experiments.decision.facts import Facts
from experiments.labels.section import section
from experiments.pages.blocks import Missing, Table
from experiments.pages.text import CitedText
from experiments.reading.study import LabelCurve, LabelledRun
from tests.experiments.support import figures, known, said, with_scenario

COUNTS = (450, 1_350, 4_500, 13_500, 45_000)
BUILT = {450: (0.57, 0.59, 0.58), 1_350: (0.70, 0.71), 4_500: (0.80,), 13_500: (0.868,), 45_000: (0.915,)}
ADAPTED = {450: (0.775, 0.78, 0.77), 1_350: (0.81, 0.815), 4_500: (0.835,), 13_500: (0.848,), 45_000: (0.856,)}


def with_curve(facts: Facts, *, source: str = "", missing: int = 0, **ways: dict[int, tuple[float, ...]]) -> Facts:
    runs = tuple(
        LabelledRun(way=way, labels=labels, seed=seed, accuracy=accuracy, run_id=f"{way}{labels}{seed}", model="net")
        for way, curve in ways.items()
        for labels, accuracies in curve.items()
        for seed, accuracy in enumerate(accuracies)
    )
    source = source or facts.subject_runs[0]
    return replace(facts, label_curve=LabelCurve(run_id="own", source=source, planned=len(runs) + missing, runs=runs))


def texts(facts: Facts) -> list[str]:
    return [block.text for block in section(facts).blocks if isinstance(block, CitedText)]


def test_one_way(demo: Facts) -> None:
    facts = with_curve(demo, build=BUILT)
    made = section(facts)
    law, held, needed, caveats, prices = texts(facts)
    assert law.startswith("Built from nothing, the error follows a + b / labels^c: c is 0.")
    assert held.startswith("Fitted without the 45,000 labels it predicts ")
    assert held.endswith("measured were 91.5 %: it held.")
    assert needed.startswith("Built from nothing, the 70 % bar takes 1,1")
    assert "($39.8" in needed
    assert ", besides the 5,000 validation images)" in needed
    assert "those of the 5,000 validation images come to $180. The costs of the ways count both" in prices
    assert caveats.startswith("All accuracies are of the same 5,000 validation images, which no training saw; the test")
    assert said(made, "learning") == needed
    figure = figures(made)["label_curve"]
    assert [entry[0] for entry in figure.legend] == ["law, built from nothing", "built from nothing"]
    [table] = [block for block in made.blocks if isinstance(block, Table)]
    assert [row.cells[0].text for row in table.rows] == ["450", "1,350", "4,500", "13,500", "45,000"]
    first = table.rows[0].cells
    assert (first[1].text, first[2].text) == ("58.00 %", "$16.20")
    assert first[1].note.endswith(", 3 runs")
    numbers = {number.name: number.value for number in made.numbers}
    assert numbers["labels.build.450.mean"] == pytest.approx(0.58)
    assert numbers["labels.build.held"] == "true"
    assert 1_100 < float(numbers["labels.build.needed.low"] or 0) < float(numbers["labels.build.needed.high"] or 0)


def test_two_ways_change_places(demo: Facts) -> None:
    facts = with_curve(demo, build=BUILT, adapt=ADAPTED)
    *_, adapted, crossing, _, _, learnt = texts(facts)
    assert learnt.startswith("Adapted is a linear head on the features of net, which learnt from images that its file")
    besides = "besides the 5,000 validation images"
    assert adapted == f"Adapted, the 70 % bar takes fewer than 450 labels ($16.20, {besides}), the fewest tried."
    assert crossing.startswith("Build and adapt change places at ")
    assert crossing.endswith(": with fewer, adapting is more accurate; with more, building.")
    assert crossing in said(section(facts), "learning")
    swapped = with_curve(demo, build=ADAPTED, adapt=BUILT)
    *_, crossing, _, _, _ = texts(swapped)
    assert crossing.startswith("Build and adapt change places at ")
    assert crossing.endswith(": with fewer, building is more accurate; with more, adapting.")
    better = {labels: tuple(1 - 0.4 * (1 - value) for value in values) for labels, values in BUILT.items()}
    assert "The two do not change places between 450 and 45,000 labels: at the end adapted is ahead." in texts(
        with_curve(demo, build=BUILT, adapt=better)
    )


@pytest.mark.parametrize(
    ("bar", "words"),
    [
        (0.5, "takes fewer than 450 labels"),
        (0.9, "takes 2"),
        (0.999, "how many labels the 99.9 % bar takes cannot be said."),
    ],
)
def test_labels_for_a_bar(demo: Facts, bar: float, words: str) -> None:
    facts = with_curve(demo, build=BUILT)
    facts = replace(facts, bar=replace(facts.bar, target=bar))
    assert words in texts(facts)[2]


def test_a_bar_that_the_fewest_labels_clear_needs_no_law(demo: Facts) -> None:
    clears = texts(with_curve(demo, build={450: (0.76,), 1_350: (0.77,)}))[1]
    assert clears.startswith("Built from nothing, the 70 % bar takes fewer than 450 labels ($16.20, ")
    within_chance = texts(with_curve(demo, build={450: (0.705,), 1_350: (0.77,)}))[1]
    assert "cannot be said" in within_chance


def test_labels_without_a_price_have_none(demo: Facts) -> None:
    facts = with_scenario(with_curve(demo, build=BUILT), usd_per_label=0.0)
    assert not any("$" in text for text in texts(facts))


def test_what_is_not_known_is_said(demo: Facts) -> None:
    assert section(demo).blocks == (
        Missing(
            "Accuracy by the number of labels was not measured: "
            "`python experiments/label_curve.py --study demo --store STORE` does that."
        ),
    )
    some = with_curve(demo, build={450: (0.58,), 1_350: (0.7,)}, source="another", missing=3)
    assert texts(some)[0] == (
        "Built from nothing: no law was fitted, as that takes four numbers of labels and an error that falls."
    )
    assert "how many labels the 70 % bar takes cannot be said" in texts(some)[1]
    assert texts(some)[-2:] == [
        "The curve has 2 of 5 runs: the same command runs the rest.",
        "The curve is of another recipe than the champion's: the study went on after it was measured.",
    ]


def test_a_curve_of_the_champions_trial_is_of_its_recipe(demo: Facts) -> None:
    search = demo.study.search.set_index("trial")["run_id"]
    for trial, other in ((3, False), (0, True)):
        found = texts(with_curve(demo, source=search[trial], build=BUILT))
        assert any("of another recipe" in text for text in found) == other


@pytest.mark.parametrize(
    ("missing", "text"),
    [
        (3, "The curve has 2 of 5 runs; 2 diverged: the same command runs the rest."),
        (2, "The curve has 2 of 4 runs; 2 diverged."),
    ],
)
def test_a_run_that_diverged_is_not_promised_again(demo: Facts, missing: int, text: str) -> None:
    facts = with_curve(demo, build={450: (0.58,), 1_350: (0.7,)}, missing=missing)
    assert texts(replace(facts, label_curve=replace(known(facts.label_curve), diverged=2)))[-1] == text
