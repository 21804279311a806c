from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace

import pandas as pd
import pytest

from experiments.decision.facts import Facts
from experiments.decision.verdict import Standing, judge, verdict_of, ways_of
from experiments.pages.blocks import Bullets, Code, Figure, Lead, Table
from experiments.report import references_of
from experiments.sections import verdict
from experiments.sections.money import cost_curves
from tests.experiments.decision.test_verdict import ACCURACIES, score, under, vendor
from tests.experiments.support import ADAPTED, HICCUPS, known, with_cost, with_scenario, with_study, with_test


def lead(facts: Facts) -> Lead:
    block = verdict.section(facts).blocks[0]
    assert isinstance(block, Lead)
    assert all(text.text and text.sources for text in (block.because, *(text for _, text in block.facts)))
    return block


def rows(facts: Facts) -> dict[str, list[str]]:
    [table] = [block for block in verdict.section(facts).blocks if isinstance(block, Table)]
    return {row.cells[0].text: [cell.text for cell in row.cells[1:]] for row in table.rows}


def notes(facts: Facts) -> str:
    [bullets] = [block for block in verdict.section(facts).blocks if isinstance(block, Bullets)]
    return " ".join(item.text for item in bullets.items)


def test_a_measurement_that_is_missing_is_the_answer_with_its_command(demo: Facts) -> None:
    shown = lead(demo)
    assert shown.answer == "Not yet: measure GPT-6 Luna"
    assert shown.because.text == (
        "GPT-6 Luna would cost $3,346 over 3 years, but its accuracy and latency are unknown. Of "
        "what is known to clear every bar, building costs least: $11,745."
    )
    assert shown.facts[0][1].text == (
        "If GPT-6 Luna proves to clear the bars: “Buy GPT-6 Luna”. If not: “Not yet: measure Claude Haiku 5.5”. If "
        "nothing else that is unmeasured clears the bars: “Build”."
    )
    [command] = [block.text for block in verdict.section(demo).blocks if isinstance(block, Code)]
    assert command.endswith(
        "python experiments/score_answers.py test-images/MODEL.csv --vendor 'GPT-6 Luna' --study demo --store STORE"
    )


def test_the_table_has_every_way_and_what_is_unknown_of_it(demo: Facts) -> None:
    table = rows(demo)
    assert table["Building"] == ["92.30 %", "$8,395", "$11,745", "6 ms", "training set", "clears all"]
    assert table["GPT-6 Luna"][-3:] == ["unknown", "none", "accuracy and latency unknown"]
    assert table["ViT-B/16"][:3] == ["96.8 %", "at least $6,475", "at least $9,824"]
    assert table["Azure Custom Vision"][-1].startswith("misses horizon: ends its service on 2028-09-25")
    assert list(table)[-1] == "Azure Custom Vision"  # what misses a bar comes last


@pytest.mark.parametrize(
    ("usd", "words"),
    [
        (
            2.0,
            "Of what is known to clear every bar, building costs least over 3 years: $11,745, $6,255 less than calls.",
        ),
        (11_800 / 9000, "Building ($11,745) and calls ($11,800) clear every bar and cost about the same over 3 years."),
        (
            0.5,
            "Of what is known to clear every bar, calls costs least over 3 years: $4,500, $7,245 less than building.",
        ),
    ],
)
def test_costs_decide_between_what_clears_every_bar(demo: Facts, usd: float, words: str) -> None:
    clear = under(demo, vendor(usd, accuracy=ACCURACIES["gpt-4o"], p95_ms=900))
    assert lead(clear).because.text.startswith(words)


def test_the_only_way_that_clears_every_bar_is_beside_the_next_that_may(demo: Facts) -> None:
    alone = with_scenario(demo, downloads=(), vendors=(vendor(2.0),))
    words = "Only building is known to clear every bar, for $11,745 over 3 years"
    assert lead(alone).because.text == f"{words}; calls would cost $18,000 (accuracy and latency unknown)."
    about = with_scenario(alone, vendors=(vendor(1.3),))  # less than a tenth cheaper, so it is no contender
    assert lead(about).because.text == f"{words}; calls would cost $11,700 (accuracy and latency unknown)."
    assert lead(under(alone, vendor(2.0, accuracy=ACCURACIES["pixtral-large"]))).because.text == f"{words}."


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (4499.6, 12_000.4, "$4,500, $7,500 less than second."),  # 7,500.80
        (4500.4, 12_000.6, "$4,500, $7,501 less than second."),  # 7,500.20
        (4499.6, 4500.4, "$4,500, about as much as second."),
    ],
)
def test_a_difference_is_that_of_the_sums_that_are_shown(demo: Facts, first: float, second: float, words: str) -> None:
    known = {"accuracy": ACCURACIES["gpt-4o"], "p95_ms": 900}
    vendors = (vendor(usd / 9000, name=name, **known) for name, usd in (("first", first), ("second", second)))
    shown = lead(under(with_test(demo, 0.5), *vendors))
    assert shown.because.text.endswith(f"first costs least over 3 years: {words}")


@pytest.mark.parametrize(
    ("years", "titles"),
    [
        (0.5, ["6 months"]),
        (1, ["1 year"]),
        (1.004, ["1 year"]),
        (1.01, ["First year", "1.01 years"]),
        (1.5, ["First year", "1.5 years"]),
    ],
)
def test_no_two_columns_of_costs_read_the_same(demo: Facts, years: float, titles: list[str]) -> None:
    blocks = verdict.section(with_scenario(demo, horizon_years=years)).blocks
    [table] = [block for block in blocks if isinstance(block, Table)]
    assert list(table.titles[2:-3]) == titles
    assert {len(row.cells) for row in table.rows} == {len(table.titles)}
    assert [n for n in range(len(table.titles)) if n in table.numbers] == [*range(1, 3 + len(titles))]


@pytest.mark.parametrize(("right", "label"), [(7000, "Once that is settled"), (None, "Once it is measured")])
def test_a_way_that_was_measured_is_not_still_to_be_measured(demo: Facts, right: int | None, label: str) -> None:
    scores = {} if right is None else {"calls": score(right)}
    shown = lead(replace(under(demo, vendor(0.5)), scores=scores))
    assert shown.facts[0][0] == label


def test_other_answers_have_their_reason(demo: Facts) -> None:
    alone = under(demo, vendor(accuracy=ACCURACIES["pixtral-large"]))
    reasons = {
        "Building would cost $11,745 over 3 years, but it has no test accuracy yet.": replace(alone, test=None),
        "Building has 50.00 % (49.90 to 50.10 %). calls is published at 13 %.": with_test(alone, 0.5),
        "too close to the bar. Nothing is known to clear every bar.": with_test(alone, 0.7),
        "Building may be the cheapest, but it has no price: no price is listed": with_cost(alone, machine=None),
        "ViT-B/16 would cost at least $9,824 over 3 years, with one machine, and without the compute of its training. "
        "It is published at 96.8 to 98.9 %, and was not tested here.":
            with_scenario(demo, vendors=(vendor(),)),
        "ViT-B/16 would cost at least $7,680 over 3 years, without its compute. It is published":
            with_scenario(demo, vendors=(vendor(),), latency_bar_ms=None),
    }  # fmt: skip
    for words, facts in reasons.items():
        assert words in lead(facts).because.text


def test_what_a_reader_must_know_stands_beside_the_verdict(demo: Facts) -> None:
    said = notes(demo)
    assert said.startswith(
        "People are 82 % of the cost of building: 84 h to build and 12 h a year to maintain, which nobody measured. "
        "Building counts 1 machine (AWS m7g.large (2 vCPU)) and no spare, taken to be as fast as the processor of 2 "
        "cores of the study. Accuracies are on CIFAR-10: `make study IMAGES=DIR` measures them on your own images."
    )
    assert "nobody" not in notes(with_scenario(demo, is_example=False))
    command = 'make serve STORE=STORE ARGS="--model cifar10"'
    assert notes(under(demo, vendor())).startswith(f"Next: `{command}` answers with the store's champion")
    assert "no spare" not in notes(with_cost(demo, machine=None))
    assert "one training run" not in notes(demo)
    misspelt = notes(replace(demo, scores={"gpt6_luna": replace(score(9000), vendor="GPT6 Luna")}))
    assert "Answers of GPT6 Luna were scored, but scenario.toml has no vendor of that name." in misspelt
    [luna] = [v for v in demo.scenario.vendors if v.name == "GPT-6 Luna"]
    told = replace(score(9000), vendor=luna.name, usd=10_000 * luna.serving(1000, waits=False) / 1000)
    for times, is_told in ((1.0, False), (1.1, False), (5.0, True)):
        paid = notes(replace(demo, scores={"gpt_6_luna": replace(told, usd=times * known(told.usd))}))
        assert ("GPT-6 Luna cost $" in paid) == is_told
    assert "for 1,000 images when it was measured, but the scenario's tokens make $" in paid
    dearer = replace(luna, endpoint=demo.published.role("endpoint")[0])  # which the measurement did not pay for
    assert "GPT-6 Luna cost $" not in notes(
        with_scenario(replace(demo, scores={"gpt_6_luna": told}), vendors=(dearer,))
    )
    single = replace(demo, test=replace(demo.test, run_ids=("r" * 32,)))  # type: ignore[type-var]
    assert "The network is one training run: its interval covers the test images, not another training" in notes(single)
    shipped = {v.name: v for v in demo.scenario.vendors}
    lasting = with_scenario(demo, horizon_years=1, vendors=(shipped["Azure Custom Vision"],), downloads=())
    assert "Azure Custom Vision (2023)" in notes(replace(lasting, test=None))


def test_a_network_that_was_timed_unevenly_is_noted_with_the_reason_and_shown_without_a_time(demo: Facts) -> None:
    adapted = replace(ADAPTED, serving=(HICCUPS, ADAPTED.serving[1]))
    facts = with_scenario(with_study(demo, adapted=adapted), images_per_month=12_000_000)
    words = "has answers that took unequally long when timed (51.8 ms in the middle, 130 ms on average), so how long "
    [table] = [block for block in verdict.section(facts).blocks if isinstance(block, Table)]
    [shown] = [row for row in table.rows if row.cells[0].text.startswith("efficientnet_lite0")]
    column = table.titles.index("Time to answer (95 %)")
    assert (words in notes(facts), shown.cells[column].text) == (True, "unknown")
    assert words in notes(with_scenario(facts, latency_bar_ms=None))
    assert words not in notes(with_scenario(facts, images_per_month=1000))
    dropped = (vendor(accuracy=ACCURACIES["pixtral-large"]),)
    alone = with_scenario(with_test(facts, 0.5), vendors=dropped, downloads=())
    assert words in lead(alone).because.text
    assert words not in notes(alone)


def test_runs_that_diverged_are_noted(demo: Facts) -> None:
    final = demo.study.final
    lost = with_study(demo, final=pd.concat([final, final.assign(state="pruned").head(1)]))
    words = "1 of 3 final runs diverged, and are not in the accuracy of building: a retraining may diverge too."
    assert (words in notes(demo), words in notes(lost)) == (False, True)


def test_a_download_of_unknown_compute_must_clear_the_bars_and_not_cost_too_much(demo: Facts) -> None:
    alone = with_scenario(demo, vendors=(vendor(),))
    said = lead(alone).facts[0][1].text
    assert said == (  # building costs $11,745: a tenth less, and what that is a tenth less than
        "If ViT-B/16 proves to clear the bars and to cost under $10,570: “Adapt ViT-B/16”. If it misses one or costs "
        "over $13,049: “Build”."
    )
    ways = verdict_of(alone).ways
    for usd, headline in ((10_569, "Adapt ViT-B/16"), (10_571, "Either"), (13_048, "Either"), (13_050, "Build")):
        priced = [
            replace(
                way,
                option=replace(way.option, people=way.option.people + usd - way.option.total(36)),
                checks=tuple(replace(check, standing=Standing.CLEARS) for check in way.checks),
            )
            if way.title == "ViT-B/16"
            else way
            for way in ways
        ]
        assert judge(priced, 36).headline == headline
    at_any_price = with_scenario(with_test(demo, 0.5), vendors=(vendor(accuracy=ACCURACIES["pixtral-large"]),))
    assert lead(at_any_price).facts[0][1].text == (
        "If ViT-B/16 proves to clear the bars: “Adapt ViT-B/16”. If not: “Not yet: nothing clears the bars”."
    )


def test_building_that_was_assumed_to_fail_is_no_fallback(demo: Facts) -> None:
    alone = with_scenario(replace(demo, test=None), data_stays_in_house=True, downloads=())
    assert (
        lead(alone).facts[0][1].text
        == "If building proves to clear the bars: “Build”. If not: “Not yet: nothing clears the bars”."
    )


def test_a_measured_vendor_shows_its_interval(demo: Facts) -> None:
    measured = replace(under(demo, vendor(0.5)), scores={"calls": score(9000)})
    assert rows(measured)["calls"] == ["90.00 %", "$1,500", "$4,500", "500 ms", "none", "clears all"]
    [table] = [block for block in verdict.section(measured).blocks if isinstance(block, Table)]
    assert "89.4 to 90.6 %" in [cell.note for row in table.rows for cell in row.cells]


def test_people_who_are_nearly_all_of_the_cost_are_not_all_of_it(demo: Facts) -> None:
    assert notes(with_scenario(demo, hourly_rate=1e6)).startswith("People are over 99 % of the cost of building: ")
    assert notes(with_scenario(demo, hourly_rate=0.01)).startswith("People are under 1 % of the cost of building: ")


def test_people_who_cost_nothing_are_no_share_of_the_cost(demo: Facts) -> None:
    said = notes(with_scenario(demo, hourly_rate=0.0))
    assert said.startswith("People: 84 h to build and 12 h a year to maintain, which nobody measured.")


def test_the_accuracy_of_a_measured_vendor_is_traced_to_its_answers(demo: Facts) -> None:
    measured = replace(under(demo, vendor(0.5)), scores={"calls": score(9000)})
    found = {number.name: number for number in verdict.section(measured).numbers}
    assert found["buy.calls.accuracy.mean"].value == 0.9
    [source] = found["buy.calls.accuracy.mean"].sources
    entry = references_of(measured).entries[source.removeprefix("source/")]
    assert entry.name == "calls, measured"
    assert entry.source.startswith("10,000 answers to 10,000 test images, SHA-256 ")


def test_a_vendor_that_left_images_unanswered_is_not_known_to_miss(demo: Facts) -> None:
    partly = replace(under(demo, vendor(0.5)), scores={"calls": replace(score(100), missing=9900)})
    assert rows(partly)["calls"][-1] == "accuracy unknown"
    [check] = next(way for way in ways_of(partly) if way.title == "calls").unknown
    assert (
        check.reason
        == "was measured at 1.00 % (0.82 to 100.00 %), 9,900 of 10,000 images unanswered, too close to the bar"
    )


def test_the_figure_has_a_mark_for_each_way_and_the_bar(demo: Facts) -> None:
    [figure] = verdict.section(demo).pictures
    assert isinstance(figure, Figure)
    drawn = json.loads(figure.figure.to_json())
    marks = {trace["name"]: trace for trace in drawn["data"]}
    assert len(marks) == 8
    assert marks["building"]["marker"]["symbol"] == "circle"
    assert marks["ViT-B/16"]["marker"]["symbol"] == "circle-open"
    luna = marks["GPT-6 Luna"]
    low, high = drawn["layout"]["yaxis"]["range"]
    assert luna["y"][0] - luna["error_y"]["arrayminus"][0] == low  # an unknown accuracy may be any
    assert luna["y"][0] + luna["error_y"]["array"][0] == 100 < high
    assert [shape["y0"] for shape in drawn["layout"]["shapes"]] == [70]


def test_costs_from_ten_to_a_hundred_times_the_least_are_labelled_at_one_two_and_five(demo: Facts) -> None:
    months = demo.scenario.months
    ways = sorted(ways_of(demo), key=lambda way: way.option.total(months))
    assert 10 < ways[-1].option.total(months) / ways[0].option.total(months) < 100
    assert verdict.cost_against_accuracy(demo, ways).layout.xaxis.dtick == "D2"
    assert verdict.cost_against_accuracy(demo, ways[:2]).layout.xaxis.dtick is None


def test_an_accuracy_on_other_test_images_is_named_so_and_not_drawn(demo: Facts) -> None:
    elsewhere = under(demo, vendor(0.5, accuracy=replace(ACCURACIES["gpt-4o"], same_test=False)))
    [table] = [block for block in verdict.section(elsewhere).blocks if isinstance(block, Table)]
    [cell] = [row.cells[1] for row in table.rows if row.cells[0].text == "calls"]
    assert cell.note == "published, on other test images"
    [figure] = verdict.section(elsewhere).pictures
    assert isinstance(figure, Figure)
    [mark] = [trace for trace in json.loads(figure.figure.to_json())["data"] if trace["name"] == "calls"]
    assert mark["error_y"]["array"][0] + mark["y"][0] == 100, "as if it were unknown"


def test_a_way_has_one_colour_on_the_page_and_is_faint_where_it_misses_a_bar(demo: Facts) -> None:
    marks = verdict.cost_against_accuracy(demo, ways_of(demo)).data
    lines = cost_curves([way.option for way in ways_of(demo)], demo.scenario.months).data
    assert {m.name: m.marker.color for m in marks} == {li.name.partition(", ")[0]: li.line.color for li in lines}
    assert [mark.name for mark in marks if mark.opacity < 1] == ["Azure Custom Vision"]


def test_the_way_of_the_answer_is_on_top_and_lines_that_fall_together_have_one_label(demo: Facts) -> None:
    [luna, *others] = demo.scenario.vendors
    facts = with_scenario(demo, vendors=(luna, replace(luna, name="<b> " * 20), others[-1]))
    drawn = verdict.cost_against_accuracy(facts, ways_of(facts))
    thickness = {mark.name: mark.error_y.thickness for mark in drawn.data}
    assert list(thickness)[-1] == verdict_of(facts).contender.title  # type: ignore[union-attr]
    assert sorted(thickness.values()) == [1, 1, 2, 2, 3]
    even = under(demo, vendor(11_800 / 9000, accuracy=ACCURACIES["gpt-4o"], p95_ms=900))
    either = verdict.cost_against_accuracy(even, ways_of(even)).data
    assert [mark.name for mark in either if mark.error_y.thickness == 3] == ["building", "calls"]
    along = [re.sub("<span.*?>|</span>", "", a.text) for a in drawn.layout.annotations if a.textangle]
    assert along == [
        "&lt;b&gt; &lt;b&gt; &lt;b&gt; &lt;b&gt; &lt;b&gt; &lt;b&gt; &lt;b&gt; &lt;…<br>GPT-6 Luna",
        "AWS Rekognition Custom Labels",
    ]


def test_labels_of_lines_keep_clear_of_marks(demo: Facts) -> None:
    for accuracy, end in ((0.95, "bottom"), (0.65, "top")):
        facts = with_test(demo, accuracy)
        drawn = verdict.cost_against_accuracy(facts, [way for way in ways_of(facts) if way.option.kind != "adapt"])
        assert {label.yanchor for label in drawn.layout.annotations if label.textangle} == {end}


@pytest.mark.parametrize("right", [9300, 9310, 9500])
def test_labels_of_near_marks_stand_apart(demo: Facts, right: int) -> None:
    close = replace(demo, scores={"gpt_6_luna": score(right), "claude_haiku_5_5": score(right)})
    [figure] = verdict.section(close).pictures
    assert isinstance(figure, Figure)
    _, *labels = json.loads(figure.figure.to_json())["layout"]["annotations"]  # the first is the bar's
    heights = sorted(label["y"] for label in labels if "textangle" not in label)
    low, high = 60.0, 100.0
    assert len(heights) == 4
    assert all(above - below > 0.05 * (high - low) for below, above in itertools.pairwise(heights)), heights
