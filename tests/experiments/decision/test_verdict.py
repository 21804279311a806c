"""A scenario for each answer, and the properties of the rules."""

from __future__ import annotations

import datetime
import itertools
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cifar_core.data.data_set import CIFAR10
from experiments.decision.costs import Option
from experiments.decision.facts import Facts
from experiments.decision.verdict import CLOSE, Check, Standing, Way, judge, verdict_of, ways_of
from experiments.reading.scenario import Vendor
from experiments.reading.vendor_score import VendorScore
from experiments.stats import Estimate
from tests.experiments.decision.test_machines import PUBLISHED
from tests.experiments.support import ADAPTED, HICCUPS, known, with_cost, with_scenario, with_study, with_test

PRICES = {price.key: price for price in PUBLISHED.prices}
ACCURACIES = {accuracy.key: accuracy for accuracy in PUBLISHED.accuracies}

LASTING = replace(PRICES["azure-prediction"], retires="")


def vendor(usd: float = 2.0, **fields: Any) -> Vendor:
    """A vendor by the call that lasts: $18,000 over the horizon at 2 dollars for 1,000 images."""
    return Vendor(name=fields.pop("name", "calls"), per_call=replace(LASTING, usd=usd), **fields)


def score(right: int, p95: float | None = 0.5) -> VendorScore:
    return VendorScore(
        vendor="calls", date="2026-11-20", sha256="0", data_sha256=CIFAR10.sha256, images=10_000, right=right,
        unparsable=0, missing=0, classes={}, p95_seconds=p95, usd=None, study="", mcnemar=None,
    )  # fmt: skip


def under(facts: Facts, *vendors: Vendor, **changes: Any) -> Facts:
    return with_scenario(facts, vendors=vendors, downloads=(), **changes)


def test_the_shipped_scenario_waits_for_a_measurement(demo: Facts) -> None:
    verdict = verdict_of(demo)
    assert (verdict.answer, verdict.headline) == ("Not yet", "Not yet: measure GPT-6 Luna")
    assert verdict.best is not None
    assert verdict.best.title == "building"
    assert verdict.contender is not None
    assert verdict.contender.doubts == "accuracy and latency unknown"
    assert verdict.contender.commands == (
        "python experiments/export_test.py test-images --study demo --store STORE\n"
        "VENDOR_KEY=... python experiments/ask_vendor.py --url URL --model MODEL --price gpt-6-luna\n"
        "python experiments/score_answers.py test-images/MODEL.csv --vendor 'GPT-6 Luna' --study demo --store STORE",
    )
    at_home = verdict_of(with_study(demo, in_default_store=True)).contender
    assert at_home is not None
    assert "--store" not in str(at_home.commands)


def test_build(demo: Facts) -> None:
    assert verdict_of(under(demo, vendor())).headline == "Build"  # dearer and unknown: it cannot win
    assert verdict_of(with_scenario(demo, data_stays_in_house=True, downloads=())).headline == "Build"


def test_buy(demo: Facts) -> None:
    clear = under(demo, vendor(0.5, accuracy=ACCURACIES["gpt-4o"], p95_ms=900))
    assert verdict_of(clear).headline == "Buy calls"
    measured = replace(under(demo, vendor(0.5)), scores={"calls": score(9000)})
    assert verdict_of(measured).headline == "Buy calls"


def test_either(demo: Facts) -> None:
    even = under(demo, vendor(11_800 / 9000, accuracy=ACCURACIES["gpt-4o"], p95_ms=900))
    assert verdict_of(even).answer == "Either"
    assert {way.title for way in verdict_of(even).named} == {"building", "calls"}


def test_adapt_is_an_answer_of_its_own_and_never_said_to_be_measured(demo: Facts) -> None:
    alone = with_scenario(demo, vendors=(vendor(),))
    assert verdict_of(alone).headline == "Adapt and test ViT-B/16"
    [vit] = [way for way in ways_of(alone) if way.option.kind == "adapt"]
    assert not vit.measured
    assert vit.doubts == "latency and price unknown"
    far = with_scenario(with_test(alone, 0.5), vendors=(vendor(),), accuracy_bar=0.70)
    assert verdict_of(far).headline == "Adapt and test ViT-B/16"
    high = replace(alone, bar=replace(demo.bar, target=0.95))  # re-tests of such cards fell by up to 2.8 points
    [vit] = [way for way in ways_of(high) if way.option.kind == "adapt"]
    assert vit.checks[0].standing is Standing.UNKNOWN
    never = replace(alone, bar=replace(demo.bar, target=0.995))
    assert verdict_of(never).headline == "Not yet: measure calls"


def test_a_measured_download_too_close_to_the_bar_is_not_said_to_be_untested(demo: Facts) -> None:
    close = replace(known(ADAPTED.test), mean=0.70, low=0.65, high=0.75)
    facts = with_study(with_test(demo, 0.5), adapted=replace(ADAPTED, test=close))
    verdict = verdict_of(under(facts, vendor(accuracy=ACCURACIES["pixtral-large"])))
    assert verdict.headline == "Not yet: efficientnet_lite0 (new head) is too close to the bar"
    assert known(verdict.contender).commands == ()


def test_a_measured_vendor_too_close_to_the_bar_is_not_to_be_measured_again(demo: Facts) -> None:
    scored = replace(score(7010), unparsable=12)
    verdict = verdict_of(replace(under(demo, vendor(0.5)), scores={"calls": scored}))
    assert verdict.headline == "Not yet: calls is too close to the bar"
    [check] = known(verdict.contender).unknown
    assert check.reason.endswith("70.99 %), 12 answers without one class, too close to the bar")
    assert known(verdict.contender).commands == ()
    one = verdict_of(replace(under(demo, vendor(0.5)), scores={"calls": replace(scored, unparsable=1)}))
    assert ", 1 answer without one class, " in known(one.contender).unknown[0].reason
    partly = verdict_of(replace(under(demo, vendor(0.5)), scores={"calls": replace(scored, missing=900)}))
    assert partly.headline == "Not yet: measure calls", "the rest of the images can be asked about"
    assert known(partly.contender).commands
    untimed = verdict_of(replace(under(demo, vendor(0.5)), scores={"calls": replace(scored, p95_seconds=None)}))
    assert untimed.headline == "Not yet: measure calls", "its time is unknown too"


def test_images_that_were_exported_for_one_vendor_serve_the_next(demo: Facts) -> None:
    facts = replace(under(demo, vendor(0.5), vendor(0.4, name="other")), scores={"calls": score(9000)})
    assert known(verdict_of(facts).contender).commands == (
        "python experiments/score_answers.py ANSWERS.csv --vendor other --study demo --store STORE",
    )
    mine = with_scenario(facts, is_example=False, file="my.toml")
    assert known(verdict_of(mine).contender).commands == (
        "python experiments/score_answers.py ANSWERS.csv --vendor other --scenario my.toml --study demo --store STORE",
    )


def test_a_measured_download_can_win_like_any_other_way(demo: Facts) -> None:
    ways = ways_of(with_scenario(demo, vendors=(vendor(),)))
    tested = [
        replace(way, measured=True, checks=tuple(replace(c, standing=Standing.CLEARS) for c in way.checks))
        if way.option.kind == "adapt"
        else way
        for way in ways
    ]
    assert judge(tested, 36).headline == "Adapt ViT-B/16"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, "has no known accuracy on these images"),
        ({"p95_ms": 900}, "has no known accuracy on these images"),
        ({"accuracy": ACCURACIES["gpt-4o"]}, "has no known latency"),
        ({"accuracy": replace(ACCURACIES["gpt-4o"], same_test=False)}, "is published at 91 %, on other test images"),
        ({"accuracy": replace(ACCURACIES["gpt-4o"], accuracy=0.72)}, "is published at 72 %, too close to the bar"),
        (
            {"accuracy": replace(ACCURACIES["gpt-4o"], accuracy=0.6, accuracy_high=0.72)},
            "is published at 60.0 to 72.0 %, too close to the bar",
        ),
    ],
)
def test_what_is_unknown_cannot_win_but_is_measured_first(demo: Facts, changes: dict[str, Any], reason: str) -> None:
    verdict = verdict_of(under(demo, vendor(0.5, **changes)))
    assert verdict.headline == "Not yet: measure calls"
    assert verdict.contender is not None
    assert verdict.contender.unknown[0].reason == reason


@pytest.mark.parametrize(
    ("changes", "scored", "bar"),
    [
        ({"accuracy": ACCURACIES["pixtral-large"]}, None, "accuracy"),
        ({}, score(6000), "accuracy"),
        ({}, score(9000, p95=1.2), "latency"),
        ({"p95_ms": 1001}, None, "latency"),
        ({"training": PRICES["azure-training"]}, None, "horizon"),  # retires after 22 of 36 months
    ],
)
def test_what_misses_a_bar_is_out(demo: Facts, changes: dict[str, Any], scored: VendorScore | None, bar: str) -> None:
    facts = replace(under(demo, vendor(0.5, **changes)), scores={"calls": scored} if scored else {})
    assert [check.bar for check in ways_of(facts)[1].misses] == [bar]
    assert verdict_of(facts).headline == "Build"


@pytest.mark.parametrize(
    ("bar", "p95_ms", "words"),
    [
        (1000, 1040, "1.04 s in 95 % of cases; the bar is 1 s"),
        (1000, 1000.4, "1.0004 s in 95 % of cases; the bar is 1 s"),
        (1003.9, 1004.2, "1.004 s in 95 % of cases; the bar is 1.0039 s"),
        (12_300, 12_340, "12.34 s in 95 % of cases; the bar is 12.3 s"),
    ],
)
def test_a_time_that_misses_the_bar_reads_longer_than_it(demo: Facts, bar: float, p95_ms: float, words: str) -> None:
    late = ways_of(under(demo, vendor(p95_ms=p95_ms), latency_bar_ms=bar))[1]
    assert [check.reason for check in late.misses] == [f"answers within {words}"]


@pytest.mark.parametrize(
    ("low", "high", "bar", "words"),
    [
        (0.9411, 0.94998, 0.95, "94.110 to 94.998 %"),
        (0.9489, 0.957199, 0.9572, "94.8900 to 95.7199 %"),
        (0.9489, 0.9572, 0.9573, "94.89 to 95.72 %"),
        (0.94996, 0.96, 0.95, "94.996 to 96.000 %"),
        (0.95004, 0.96, 0.95, "95.004 to 96.000 %"),
        (0.95, 0.96, 0.95, "95.00 to 96.00 %"),
        (0.57, 0.58, 0.57, "57.00 to 58.00 %"),
    ],
)
def test_an_interval_reads_on_the_side_of_the_bar_on_which_it_is(
    demo: Facts, low: float, high: float, bar: float, words: str
) -> None:
    measured = Estimate((low + high) / 2, low, high, ("r" * 32,), 10_000)
    facts = with_study(replace(demo, test=measured), adapted=replace(ADAPTED, test=measured))
    facts = replace(under(facts, vendor()), bar=replace(demo.bar, target=bar))
    ours, adapted, _ = ways_of(facts)
    assert all(f"({words})" in way.checks[0].reason for way in (ours, adapted))


def test_a_measured_vendor_reads_on_the_side_of_the_bar_on_which_it_is(demo: Facts) -> None:
    facts = replace(under(demo, vendor(0.5)), scores={"calls": score(9457)})
    high = known(ways_of(facts)[1].accuracy).high
    [check] = ways_of(replace(facts, bar=replace(demo.bar, target=round(high + 1e-6, 6))))[1].misses
    assert check.reason.endswith(f" to {100 * high:.3f} %)")


@pytest.mark.parametrize(
    ("years", "words"),
    [(3, "22.3 months of 36"), (1.855, "22.258 months of 22.26"), (1.8548, "22.2575 months of 22.2576")],
)
def test_a_service_that_ends_before_the_horizon_reads_shorter_than_it(demo: Facts, years: float, words: str) -> None:
    ends = replace(LASTING, retires=(demo.as_of + datetime.timedelta(days=677)).isoformat())
    [check] = ways_of(under(demo, Vendor(name="calls", per_call=ends), horizon_years=years))[1].misses
    assert check.reason.endswith(f", after {words}")


def test_a_price_that_is_not_paid_ends_no_service(demo: Facts) -> None:
    unused = under(demo, vendor(0.5, batch=PRICES["azure-prediction"]))  # images do not wait
    assert not ways_of(unused)[1].misses
    assert [check.bar for check in ways_of(with_scenario(unused, latency_bar_ms=None))[1].misses] == ["horizon"]


def test_accuracies_on_other_images_are_unknown(demo: Facts) -> None:
    own = with_study(demo, data_set=replace(CIFAR10, sha256="1"))
    ways = ways_of(under(own, vendor(accuracy=ACCURACIES["gpt-4o"])))
    assert ways[1].checks[0].reason == "has no known accuracy on these images"


@pytest.mark.parametrize(("side", "size"), [(32, ""), (48, " --size 48")])
def test_commands_for_images_of_ones_own_name_these(demo: Facts, side: int, size: str) -> None:
    own = with_study(demo, name="photos", data_set=replace(CIFAR10, sha256="1", side=side), in_default_store=True)
    own = with_cost(replace(own, test=None), speed=None)
    settings = "--trials 6 --preset quick --space default --seed 0"
    assert ways_of(under(own, vendor()))[0].commands == (
        f"python sweeps/run_study.py --study photos {settings} --images DIR{size}",  # whose test times it too
    )
    assert ways_of(under(with_test(own, 0.80), vendor()))[0].commands == (
        f"python sweeps/run_study.py --study photos-again {settings} --images DIR{size}",
        f"python sweeps/run_study.py --study photos {settings} --images DIR{size}",  # for a price
    )
    close, *_ = ways_of(under(with_test(own, 0.70, 0.01), vendor(), latency_bar_ms=None))[0].commands
    longer = "--preset standard --space default --seed 0"
    assert close == f"python sweeps/run_study.py --study photos-standard {longer} --images DIR{size}"
    vendors = ways_of(under(own, vendor()))[1].commands
    assert vendors == (
        "python experiments/export_test.py test-images-1 --study photos\n"
        "python experiments/score_answers.py ANSWERS.csv --vendor calls --study photos",
    )


@pytest.mark.parametrize(
    ("preset", "more"),
    [("smoke", "quick"), ("quick", "standard"), ("standard", "thorough"), ("thorough", ""), ("epochs-5", "")],
)
def test_a_network_too_close_to_the_bar_is_to_be_trained_for_longer(demo: Facts, preset: str, more: str) -> None:
    params = {**demo.study.params, "preset": preset, "seed": "3", "timeout": "600.0", "patience": "20"}
    facts = with_study(with_test(demo, 0.70, 0.01), params=params)
    command = f"python sweeps/run_study.py --study demo-{more} --preset {more} --space default --seed 3 --store STORE"
    assert ways_of(facts)[0].commands == ((command,) if more else ())


def test_a_measured_accuracy_is_not_called_unknown(demo: Facts) -> None:
    close = under(with_test(demo, 0.70, 0.01), vendor())
    assert ways_of(close)[0].doubts == "accuracy too close to the bar"
    assert ways_of(with_cost(close, machine=None))[0].doubts == "accuracy too close to the bar, price unknown"


def test_the_command_for_a_price_names_the_study(demo: Facts) -> None:
    assert ways_of(with_cost(demo, machine=None))[0].commands == (
        "python experiments/compare.py --study demo --store STORE --scenario mine.toml  # with compute = PRICE",
    )


def test_no_bar_no_check(demo: Facts) -> None:
    waits = under(demo, vendor(0.01, accuracy=ACCURACIES["gpt-4o"]), latency_bar_ms=None)
    assert verdict_of(waits).headline == "Buy calls"


@pytest.mark.parametrize(
    ("mean", "answer"),
    [
        (0.701, "Build"),  # the interval begins at the bar
        (0.7009, "Not yet: building is too close to the bar"),
        (0.6991, "Not yet: building is too close to the bar"),  # its end reaches over the bar
        (0.6989, "Not yet: nothing clears the bars"),
    ],
)
def test_the_interval_must_be_clear_of_the_bar(demo: Facts, mean: float, answer: str) -> None:
    beside = under(demo, vendor(accuracy=ACCURACIES["pixtral-large"]))
    assert verdict_of(with_test(beside, mean, 0.001)).headline == answer


def test_building_waits_for_a_test_a_price_or_a_timing(demo: Facts) -> None:
    alone = under(demo, vendor(accuracy=ACCURACIES["pixtral-large"]))
    speed = demo.cost.speed
    assert speed is not None
    for facts, doubt in (
        (replace(alone, test=None), "accuracy"),
        (with_cost(alone, machine=None), "price"),
        (with_cost(alone, speed=replace(speed, latency=1.1, p95=None, bounded=True)), "latency"),
        (with_cost(alone, speed=None), "latency and price"),
    ):
        verdict = verdict_of(facts)
        ours = "train and test our own" if facts.test is None else "measure building"
        assert verdict.headline == f"Not yet: {ours}"
        assert verdict.contender is not None
        assert verdict.contender.doubts == f"{doubt} unknown"
        assert verdict.contender.commands
    slow = with_cost(alone, speed=replace(speed, p95=1.1))
    assert [check.bar for check in ways_of(slow)[0].misses] == ["latency"]


def test_a_busy_machine_does_not_keep_a_tight_bar(demo: Facts) -> None:
    # One answer takes 4 ms, 6 ms at most in 95 % of cases; at a load of 60 % it waits 11 ms at most in as many.
    full = 2 * 250 * 3600 * 730 * 0.6
    tight = under(demo, vendor(), latency_bar_ms=16)
    assert ways_of(tight)[0].clears
    assert [check.bar for check in ways_of(with_scenario(tight, images_per_month=full))[0].misses] == ["latency"]


def test_uneven_times_leave_the_latency_unknown_where_images_wait(demo: Facts) -> None:
    speed = replace(known(demo.cost.speed), latency=0.1302, p95=0.1348, uneven=HICCUPS)
    busy = with_scenario(with_cost(under(demo, vendor()), speed=speed), images_per_month=12_000_000)
    way = ways_of(busy)[0]
    (check,) = way.unknown
    assert check.reason == (
        "has answers that took unequally long when timed (51.8 ms in the middle, 130 ms on average), so how long they "
        "wait is unknown; the bar is 1 s"
    )
    assert check.command
    assert way.seconds is None
    late = ways_of(with_scenario(busy, latency_bar_ms=134))[0]
    assert late.seconds is None
    assert [check.reason for check in late.misses] == [
        "answers within 135 ms in 95 % of cases, without the wait for earlier images; the bar is 134 ms"
    ]
    alone = ways_of(with_scenario(busy, images_per_month=1000))[0]
    assert alone.clears
    assert alone.seconds == 0.1348


def test_an_adapted_network_that_was_timed_unevenly_is_not_known_to_be_in_time(demo: Facts) -> None:
    adapted = replace(ADAPTED, serving=(HICCUPS, ADAPTED.serving[-1]))
    facts = with_study(with_scenario(demo, images_per_month=12_000_000), adapted=adapted)
    way = ways_of(facts)[1]
    assert (way.doubts, way.seconds) == ("latency unknown", None)


standings = st.sampled_from(list(Standing))
ways = st.builds(
    lambda kind, name, usd, checks: Way(
        option=Option(name=f"{kind} {name}", kind=kind, people=usd),
        accuracy=None,
        measured=False,
        seconds=None,
        checks=tuple(Check(bar, s, "is so") for bar, s in zip(("accuracy", "latency"), checks, strict=True)),
        sources=(),
    ),
    st.sampled_from(["build", "adapt", "buy"]),
    st.integers(0, 9),
    st.sampled_from([0.0, 90.0, 91.0, 100.0, 110.0, 111.0, 112.0, 500.0]),
    st.tuples(standings, standings),
)
several = st.lists(ways, min_size=1, max_size=5, unique_by=lambda way: way.option.name)


@given(several)
def test_no_rule_depends_on_the_order_of_the_ways(found: list[Way]) -> None:
    answers = {
        (verdict.headline, verdict.decided_by, verdict.best and verdict.best.title)
        for order in itertools.islice(itertools.permutations(found), 24)
        for verdict in [judge(order, 36)]
    }
    assert len(answers) == 1


@given(several)
def test_only_what_is_known_to_clear_every_bar_wins(found: list[Way]) -> None:
    verdict = judge(found, 36)
    if verdict.answer in ("Build", "Buy"):
        assert verdict.best is not None
        assert verdict.best.clears
        assert all(
            way.option.total(36) >= (1 - CLOSE) * verdict.best.option.total(36) for way in found if not way.misses
        )
    if verdict.answer == "Either":
        assert len({way.option.kind for way in verdict.near}) == len(verdict.near) > 1
    if verdict.contender:
        assert verdict.contender.unknown
        assert verdict.answer in ("Not yet", "Adapt")
