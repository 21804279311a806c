"""Verdict of the report: the decision, its reason, and the two facts that carry it."""

from __future__ import annotations

from experiments.decision.facts import Facts, answer_of, decided_by, reaching, rules_of
from experiments.pages.blocks import Lead, Section
from experiments.pages.text import CitedText, duration, percent, points, run, runs, short_percent, span, total, years


def section(facts: Facts) -> Section:
    lead = Lead(
        question="Should we build the classifier ourselves, as this study did, or buy one?",
        answer=answer_of(facts),
        because=_because(facts),
        facts=(("Accuracy", _accuracy(facts)), ("Money", _money(facts))),
    )
    return Section("", (lead,))


def _because(facts: Facts) -> CitedText:
    """The reason of the rule that decides."""
    rule = decided_by(rules_of(facts))
    bar, theirs, other = short_percent(facts.bar.target), facts.cheapest, reaching(facts)
    clears, vendor = f"The network clears the {bar} bar", f"{theirs.name}, the cheapest vendor of the scenario"
    named = f"{other.name} ({percent(other.accuracy, 1)})" if other else ""
    over = f"over {years(facts.scenario.horizon_years)}"
    text = (
        f"No run of this study was tested, so there is no accuracy to hold against the {bar} bar.",
        f"The network misses the {bar} bar, which others clear, such as {named}.",
        _not_clear(facts, bar),
        f"{clears}, but {_latency(facts)}.",
        f"{clears}, but the cost of building is not known yet: {facts.cost.missing}.",
        f"{clears}, and {over} building costs less than {vendor}.",
        f"{clears}, and {over} building and {vendor}, cost about the same.",
        f"{clears}, but {over} {vendor}, costs less.",
    )[rule]
    sources = ["source/bar"]
    if rule == 1 and other:
        sources.append(f"source/{other.key}")
    if rule >= 3:
        sources += ["source/scenario", *theirs.sources]
    return CitedText(text, tuple(sources))


def _not_clear(facts: Facts, bar: str) -> str:
    if facts.test is not None and facts.test.high < facts.bar.target:
        others = ", and so does every published system listed that can be downloaded" if facts.is_cifar10 else ""
        return f"The network of this study misses the {bar} bar{others}."
    return f"The accuracy is too close to the {bar} bar: its 95 % interval lies on both sides."


def _latency(facts: Facts) -> str:
    bar, speed = facts.scenario.latency_bar_ms, facts.cost.speed
    if bar is None or speed is None:
        return "its latency was not measured"
    if speed.bounded:
        return (
            f"its latency was not measured; the speed of training only shows that it is under "
            f"{duration(speed.worst)}, and the bar is {duration(bar / 1000)}"
        )
    return f"an answer takes up to {duration(speed.worst)}, over the bar of {duration(bar / 1000)}"


def _accuracy(facts: Facts) -> CitedText:
    test, bar = facts.test, f"the {short_percent(facts.bar.target)} bar"
    if test is None:
        if facts.validation is None:
            return CitedText("No trial has finished, so there is no accuracy yet.", run(facts.run_id))
        accuracy = percent(facts.validation.mean)
        text = f"Validation accuracy is {accuracy}, on the images that trials were selected on; there was no test."
        return CitedText(text, runs(facts.validation))
    gap = test.mean - facts.bar.target
    side = f"{points(abs(gap))} {'above' if gap > 0 else 'below'} {bar}" if abs(gap) >= 5e-5 else f"at {bar}"
    text = f"Test accuracy is {percent(test.mean)} (95 % interval {span(test)}), {side}."
    return CitedText(text, (*runs(test), "source/bar"))


def _money(facts: Facts) -> CitedText:
    ours, theirs = facts.building, facts.cheapest
    months, horizon = facts.scenario.months, years(facts.scenario.horizon_years)
    buying = f"{theirs.name} {total(theirs.total(months))}"
    if ours is None:
        text = f"The cost of building is not known yet: {facts.cost.missing}. {buying} over {horizon}."
        return CitedText(text, (*run(facts.run_id), "source/scenario", *theirs.sources))
    share = percent(ours.people / ours.total(months), 0)
    text = f"Over {horizon}, building costs {total(ours.total(months))}, {share} of it people; {buying}."
    return CitedText(text, (*facts.cost_sources, *theirs.sources))
