"""The decision: build, buy, either or not yet, by stated rules. Pure; what is missing is said, and never guessed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from experiments.decision.costs import Way, build, cheapest
from experiments.decision.measures import Measures
from experiments.pages.text import CitedText, duration, percent, points, run, runs, short_percent, span, total, years
from experiments.reading.published import Accuracy

CLOSE = 0.10  # two costs that differ by less than this share of the dearer one count as the same


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of the decision's rules: the first whose condition holds decides."""

    condition: str
    answer: str
    holds: bool
    by: str  # accuracy | latency | cost: what the rule looks at


@dataclass(frozen=True, slots=True)
class Verdict:
    answer: str  # Build | Either | Buy | Not yet
    because: CitedText
    facts: tuple[CitedText, CitedText]  # the two that carry it: accuracy, money
    rules: tuple[Rule, ...]
    decided_by: int  # index of the rule that decided


def decide(m: Measures) -> Verdict:
    """The recommendation, with the rules that led to it."""
    rules = rules_of(m)
    decided_by = first_that_holds(rules)
    return Verdict(
        answer=rules[decided_by].answer,
        because=_because(m, decided_by),
        facts=(_accuracy_fact(m), _money_fact(m)),
        rules=rules,
        decided_by=decided_by,
    )


def answer_of(m: Measures) -> str:
    """The recommendation alone."""
    rules = rules_of(m)
    return rules[first_that_holds(rules)].answer


def first_that_holds(rules: tuple[Rule, ...]) -> int:
    return next(i for i, rule in enumerate(rules) if rule.holds)


def rules_of(m: Measures) -> tuple[Rule, ...]:
    """They ask, in this order: is there a test accuracy, is it clear of the bar, does an answer come in time, and what
    do building and the cheapest vendor cost over the horizon?
    """
    target, close = m.bar.target, percent(CLOSE, 0)
    bar, horizon = short_percent(target), years(m.scenario.horizon_years)
    ours, theirs = build(m.cost, m.scenario), cheapest(m.scenario)
    gap = 0.0 if ours is None else ours.total(m.scenario.months) - theirs.total(m.scenario.months)
    near = 0.0 if ours is None else CLOSE * max(ours.total(m.scenario.months), theirs.total(m.scenario.months))
    return (
        Rule("the champion has no test accuracy", "Not yet", m.test is None, "accuracy"),
        Rule(
            f"its 95 % interval lies below {bar}, and a system that can be downloaded reaches it",
            "Buy",
            m.test is not None and m.test.high < target and _reaching(m, target) is not None,
            "accuracy",
        ),
        Rule(
            f"its 95 % interval does not lie at or above {bar}",
            "Not yet",
            m.test is not None and m.test.low < target,
            "accuracy",
        ),
        Rule("it is not known to answer within the latency bar", "Not yet", in_time(m) is not True, "latency"),
        Rule("a cost of building is unknown", "Not yet", ours is None, "cost"),
        Rule(
            f"over {horizon} building costs less than the cheapest vendor, by more than {close} of the dearer",
            "Build",
            gap < -near,
            "cost",
        ),
        Rule(f"the two costs lie within {close} of the dearer", "Either", abs(gap) <= near, "cost"),
        Rule(f"over {horizon} the cheapest vendor costs less, by more than {close} of the dearer", "Buy", True, "cost"),
    )


def in_time(m: Measures) -> bool | None:
    """Whether an answer comes within the latency bar; None: not known. True where there is no bar."""
    bar, speed = m.scenario.latency_bar_ms, m.cost.speed
    if bar is None:
        return True
    if speed is None:
        return None
    if speed.worst * 1000 <= bar:
        return True
    return None if speed.bounded else False


def why_no_money(m: Measures) -> str:
    """What is missing for a cost of building."""
    cost = m.cost
    if cost.machine is None:
        return f"no price is listed for compute on {cost.device!r}" if cost.device else "its device was not recorded"
    if cost.seconds is None:
        return "how long the study took was not recorded"
    if cost.retrain_seconds is None:
        return "no run of the recipe has finished"
    return "its speed was not recorded"


def _because(m: Measures, decided_by: int) -> CitedText:
    bar = short_percent(m.bar.target)
    theirs = cheapest(m.scenario)
    elsewhere = _reaching(m, m.bar.target)
    horizon = years(m.scenario.horizon_years)
    texts: tuple[Callable[[], str], ...] = (
        lambda: f"Nothing of this study has met the test set, so no accuracy can be held against the {bar} bar.",
        lambda: f"The network misses the {bar} bar, which others clear, such as {_named(elsewhere)}.",
        lambda: _close_call(m, bar),
        lambda: f"The network clears the {bar} bar, but {_latency(m)}.",
        lambda: f"The network clears the {bar} bar, but what building costs cannot be said yet: {why_no_money(m)}.",
        lambda: (
            f"The network clears the {bar} bar, and over {horizon} building costs less than {theirs.name}, the "
            "cheapest vendor of the scenario."
        ),
        lambda: (
            f"The network clears the {bar} bar, and over {horizon} building and {theirs.name}, the cheapest vendor "
            "of the scenario, cost about the same."
        ),
        lambda: (
            f"The network clears the {bar} bar, but over {horizon} {theirs.name}, the cheapest vendor of the "
            "scenario, costs less."
        ),
    )
    traces = ["source/bar"]
    if decided_by == 1 and elsewhere:
        traces.append(f"source/{elsewhere.key}")
    if decided_by >= 3:
        traces += ["source/scenario", *vendor_sources(theirs)]
    return CitedText(texts[decided_by](), tuple(traces))


def vendor_sources(way: Way) -> tuple[str, ...]:
    return tuple(f"source/{p.key}" for p in way.vendor.prices) if way.vendor else ()


def machine_sources(m: Measures) -> tuple[str, ...]:
    return (f"source/{m.cost.machine.key}",) if m.cost.machine else ()


def _latency(m: Measures) -> str:
    bar, speed = m.scenario.latency_bar_ms, m.cost.speed
    if bar is None or speed is None:
        return "how long an answer takes was not measured"
    if speed.bounded:
        return (
            f"how long an answer takes was not measured; from its training it is only known to be under "
            f"{duration(speed.worst)}, which the bar of {duration(bar / 1000)} is not"
        )
    return f"an answer takes up to {duration(speed.worst)}, over the bar of {duration(bar / 1000)}"


def _accuracy_fact(m: Measures) -> CitedText:
    bar = f"the {short_percent(m.bar.target)} bar"
    if m.test is None:
        if m.validation is None:
            return CitedText("No trial has finished: there is no accuracy to state.", run(m.run_id))
        text = f"Validation accuracy is {percent(m.validation.mean)}, on images that trials were chosen by; no test."
        return CitedText(text, runs(m.validation))
    gap = m.test.mean - m.bar.target
    side = f"{points(abs(gap))} {'above' if gap > 0 else 'below'} {bar}" if abs(gap) >= 5e-5 else f"at {bar}"
    return CitedText(
        f"Test accuracy is {percent(m.test.mean)} (95 % interval {span(m.test)}), {side}.",
        (*runs(m.test), "source/bar"),
    )


def _money_fact(m: Measures) -> CitedText:
    ours, theirs = build(m.cost, m.scenario), cheapest(m.scenario)
    months, horizon = m.scenario.months, years(m.scenario.horizon_years)
    buying = f"{theirs.name} {total(theirs.total(months))}"
    if ours is None:
        text = f"What building costs cannot be said yet: {why_no_money(m)}. {buying} over {horizon}."
        return CitedText(text, (*run(m.run_id), "source/scenario", *vendor_sources(theirs)))
    share = ours.people / ours.total(months)
    return CitedText(
        f"Over {horizon}, building costs {total(ours.total(months))}, {percent(share, 0)} of it people; {buying}.",
        (*run(m.run_id), *machine_sources(m), "source/scenario", *vendor_sources(theirs)),
    )


def _reaching(m: Measures, target: float) -> Accuracy | None:
    """The public system that reaches the target by the least accurate figure of its kind, best first."""
    public = [a for a in m.published.group("public") if a.accuracy >= target]
    return max(public, key=lambda a: (a.accuracy, a.key), default=None)


def _close_call(m: Measures, bar: str) -> str:
    if m.test is not None and m.test.high < m.bar.target:
        others = "every published system listed that can be downloaded"
        return f"The network of this study misses the {bar} bar, and so does {others}."
    return f"The accuracy is too close to the {bar} bar: its 95 % interval lies on both sides."


def _named(accuracy: Accuracy | None) -> str:
    return f"{accuracy.name} ({percent(accuracy.accuracy, 1)})" if accuracy else "nothing listed"
