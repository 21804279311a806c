"""The decision, and the sentences under the four heads. Pure; each sentence follows from a stated rule.

A sentence that lacks its numbers is replaced by one that says what cannot be said yet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from experiments.measures import (
    HOURS_A_MONTH,
    Estimate,
    Measures,
    against,
    wilson,
)
from experiments.published import Accuracy, Price
from experiments.words import (
    Sentence,
    article,
    count_word,
    duration,
    listed,
    money,
    percent,
    points,
    rate,
    run,
    runs,
    span,
)

UNEVEN = 0.10  # a gap between the best and the weakest class from which classes are called uneven
FEW_TRIALS = 10  # below this many complete trials, nothing is said about whether the search levelled off
LATE = 0.8  # a best trial in the last fifth of the search means that it was still finding better ones


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of the decision's rules: the first whose condition holds decides."""

    condition: str
    answer: str
    holds: bool


@dataclass(frozen=True, slots=True)
class Head:
    title: str
    sentences: tuple[Sentence, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    answer: str  # Build | Either | Buy | Not yet
    because: Sentence
    facts: tuple[Sentence, Sentence]  # the two that carry it: accuracy, money
    rules: tuple[Rule, ...]
    decided_by: int  # index of the rule that decided
    heads: tuple[Head, Head, Head, Head]


def decide(m: Measures) -> Verdict:
    """The recommendation, with the rules that led to it.

    The rules ask, in this order: is there a test accuracy, is it clear of the target, and is building cheaper
    than the least that can be bought, in training and for each prediction?
    """
    target = m.bar.target
    training, prediction = _training_cheaper(m), _prediction_cheaper(m)
    elsewhere = _reaching(m, target)
    bar = percent(target, 0)
    rules = (
        Rule("the champion has no test accuracy", "Not yet", m.test is None),
        Rule(
            f"its 95 % interval lies below {bar}, and a system that can be downloaded reaches it",
            "Buy",
            m.test is not None and m.test.high < target and elsewhere is not None,
        ),
        Rule(
            f"its 95 % interval does not lie at or above {bar}",
            "Not yet",
            m.test is not None and m.test.low < target,
        ),
        Rule("a cost of building or of buying is unknown", "Not yet", training is None or prediction is None),
        Rule(
            "the whole study costs no more than the least training on sale, and a prediction no more than "
            "a trainable service's",
            "Build",
            bool(training and prediction),
        ),
        Rule("one of the two is cheaper, the other is not", "Either", bool(training) != bool(prediction)),
        Rule("both cost more", "Buy", True),
    )
    decided_by = next(i for i, rule in enumerate(rules) if rule.holds)
    reasons: tuple[Callable[[], str], ...] = (
        lambda: f"Nothing of this study has met the test set, so no accuracy can be held against the {bar} bar.",
        lambda: f"The network misses the {bar} bar, which others clear, such as {_named(elsewhere)}.",
        lambda: _close_call(m),
        lambda: f"The network clears the {bar} bar, but its costs cannot be set against buying yet.",
        lambda: f"The network clears the {bar} bar, and costs no more to train and to run than a service would.",
        lambda: (
            f"The network clears the {bar} bar; "
            + ("training costs no more than a service's, a prediction costs more." if training else "")
            + ("a prediction costs no more than a service's, training costs more." if prediction else "")
        ),
        lambda: f"The network clears the {bar} bar, but a service costs less, to train and for each prediction.",
    )
    traces = ("source/bar", f"source/{elsewhere.key}") if elsewhere and decided_by == 1 else ("source/bar",)
    return Verdict(
        answer=rules[decided_by].answer,
        because=Sentence(reasons[decided_by](), traces),
        facts=(_accuracy_fact(m), _money_fact(m)),
        rules=rules,
        decided_by=decided_by,
        heads=(
            Head("Performance against the target", performance(m)),
            Head("Customisation", customisation(m)),
            Head("Cost of building, retraining and serving, against buying", costs(m)),
            Head("Learning and improvement", learning(m)),
        ),
    )


# ---------------------------------------------------------------- the two facts


def _accuracy_fact(m: Measures) -> Sentence:
    bar = f"the {percent(m.bar.target, 0)} bar"
    if m.test is None:
        if m.validation is None:
            return Sentence("No trial has finished: there is no accuracy to state.", run(m.run_id))
        text = f"Validation accuracy is {percent(m.validation.mean)}, on images that trials were chosen by; no test."
        return Sentence(text, runs(m.validation))
    gap = m.test.mean - m.bar.target
    side = f"{points(abs(gap))} {'above' if gap > 0 else 'below'} {bar}" if abs(gap) >= 5e-5 else f"at {bar}"
    return Sentence(
        f"Test accuracy is {percent(m.test.mean)} (95 % interval {span(m.test)}), {side}.",
        (*runs(m.test), "source/bar"),
    )


def _money_fact(m: Measures) -> Sentence:
    least = _least_training(m)
    usd = m.cost.study_usd
    if usd is None or least is None:
        return Sentence(f"What building costs cannot be said yet: {_why_no_money(m)}.", run(m.run_id))
    word = "less" if usd < least.least_purchase else "more" if usd > least.least_purchase else "as much"
    than = "as" if word == "as much" else "than"
    return Sentence(
        f"The compute of the whole study costs {_about(m)}{money(usd)}, {word} {than} the "
        f"{money(least.least_purchase)} "
        f"of the least training on sale ({_purchase(least)}).",
        (*run(m.run_id), *_machine(m), f"source/{least.key}"),
    )


# ---------------------------------------------------------------- the four heads


def performance(m: Measures) -> tuple[Sentence, ...]:
    said = [bar_sentence(m)]
    if m.test is None:
        return tuple(said)
    five_conv = next((a for a in m.published.group("system") if a.key == "five_conv"), None)
    if five_conv:
        said.append(_comparison(m.test, five_conv, "the published five_conv network"))
    same = [a for a in m.published.group("benchmark") if a.same_data]
    if same:
        best = max(same, key=lambda a: a.best)
        what = ", the best benchmark trained on CIFAR-10 alone"
        said.append(_comparison(m.test, best, _small(best.name), what))
    public = max(m.published.group("public"), key=lambda a: a.best, default=None)
    if public and m.test.mean < public.best:
        gap = public.best - m.test.mean
        said.append(
            Sentence(
                f"More can be had where it is worth something: {public.name}, said to reach "
                f"{percent(public.best, 1)}, {points(gap)} more ({public.note}).",
                (f"source/{public.key}", *runs(m.test)),
            )
        )
    said += _weakest(m)
    fresh = m.published.fresh_test_set
    low, high = (m.test.mean - p / 100 for p in reversed(fresh.points_lower))
    clears = "still at or above" if low >= m.bar.target else "below" if high < m.bar.target else "on both sides of"
    said.append(
        Sentence(
            f"On images collected anew, networks lost {fresh.points_lower[0]:g} to "
            f"{fresh.points_lower[1]:g} points; "
            f"that would leave {percent(low, 1)} to {percent(high, 1)}, {clears} the bar.",
            ("source/fresh", *runs(m.test)),
        )
    )
    return tuple(said)


def bar_sentence(m: Measures) -> Sentence:
    """Where the accuracy stands on the published bar: target, start, rework."""
    bar, estimate = m.bar, m.test
    target, start, rework = (percent(v, 0) for v in (bar.target, bar.start, bar.rework))
    if estimate is None:
        if m.validation is None:
            return Sentence("No trial has finished, so performance cannot be judged yet.", run(m.run_id))
        return Sentence(
            f"How the network does on unseen images cannot be said yet. On the validation images it reaches "
            f"{percent(m.validation.mean)}; trials were selected on these images, so the figure flatters.",
            runs(m.validation),
        )
    value = percent(estimate.mean)
    if estimate.low >= bar.target:
        text = f"At {value} the network clears the {target} target; the whole 95 % interval, {span(estimate)}, does."
    elif estimate.mean >= bar.target:
        text = (
            f"At {value} the network meets the {target} target, but its 95 % interval, {span(estimate)}, reaches below."
        )
    elif estimate.high >= bar.target:
        text = (
            f"At {value} the network misses the {target} target, though its 95 % interval, "
            f"{span(estimate)}, reaches it."
        )
    elif estimate.mean > bar.start:
        text = f"At {value} the network misses the {target} target; being over {start}, it is a start."
    elif estimate.mean >= bar.rework:
        text = f"At {value} the network misses the {target} target, and is not over the {start} that counts as a start."
    else:
        text = (
            f"At {value} the network misses the {target} target; being under {rework}, it needs work on "
            "architecture, loss and optimiser."
        )
    return Sentence(text, (*runs(estimate), "source/bar"))


def customisation(m: Measures) -> tuple[Sentence, ...]:
    said = []
    best = m.search.architectures
    if not best:
        said.append(
            Sentence(
                "No architecture has a complete trial, so what choosing one is worth cannot be said.",
                run(m.run_id),
            )
        )
    elif len(best) == 1:
        said.append(
            Sentence(
                f"Only one architecture has a complete trial ({best[0].name}), so what choosing another "
                "is worth "
                "cannot be said.",
                run(best[0].run_id),
            )
        )
    else:
        gap = best[0].best - best[-1].best
        said.append(
            Sentence(
                f"Of the {count_word(len(best))} architectures with a complete trial, the best trials lie "
                f"{points(gap)} of validation accuracy apart, from {best[-1].name} "
                f"({percent(best[-1].best, 1)}) to "
                f"{best[0].name} ({percent(best[0].best, 1)}): that is what the choice of network was "
                "worth here.",
                (*run(best[0].run_id), *run(best[-1].run_id)),
            )
        )
    if len(m.classes) > 1:
        weakest, strongest = m.classes[0], m.classes[-1]
        gap = strongest.shown - weakest.shown
        where = f"on the {m.class_split} images"
        if round(gap, 9) >= UNEVEN:
            text = (
                f"Classes are uneven {where}: {weakest.name} ({percent(weakest.shown, 1)}) lies "
                f"{points(gap)} under "
                f"{strongest.name} ({percent(strongest.shown, 1)}). Owning the training is what would let "
                "one work on that."
            )
        else:
            text = (
                f"Classes are even {where}: {weakest.name} ({percent(weakest.shown, 1)}) lies only "
                f"{points(gap)} under "
                f"{strongest.name} ({percent(strongest.shown, 1)}), so no class asks for special treatment."
            )
        said.append(Sentence(text, run(*m.subject_runs)))
    services = m.published.role("prediction") + m.published.role("training")
    if services:
        names = {
            True: sorted({_vendor(p) for p in services if p.custom}),
            False: sorted({_vendor(p) for p in services if not p.custom}),
        }
        text = f"Of the services priced here, {listed(names[True]) or 'none'} can be trained on these ten classes"
        text += f"; {listed(names[False])} return labels of their own." if names[False] else "."
        said.append(Sentence(text, tuple(f"source/{p.key}" for p in services)))
    return tuple(said)


def costs(m: Measures) -> tuple[Sentence, ...]:
    cost, said = m.cost, []
    if cost.seconds is None:
        said.append(Sentence("How long the study took was not recorded, so building has no price yet.", run(m.run_id)))
    elif cost.machine is None or cost.study_usd is None:
        said.append(Sentence(f"The study took {_about(m)}{duration(cost.seconds)}; {_why_no_money(m)}.", run(m.run_id)))
    else:
        fleet = f"{cost.machines} x " if cost.machines > 1 else ""
        said.append(
            Sentence(
                f"Building: the study took {_about(m)}{duration(cost.seconds)} of wall time, "
                f"{money(cost.study_usd)} at "
                f"{rate(cost.machine.usd)} an hour for {fleet}{cost.machine.name}. "
                "The hours of the people who built it are not measured and not in this figure.",
                (*run(m.run_id), *_machine(m)),
            )
        )
    said.append(_retraining(m))
    said.append(_serving(m))
    said += _kept_on(m)
    return tuple(said)


def learning(m: Measures) -> tuple[Sentence, ...]:
    said = [_search_sentence(m), pruning_sentence(m)]
    if m.test and m.validation:
        gap = m.validation.mean - m.test.mean
        low, high = wilson(m.validation.mean, m.validation.images)
        noise = ((high - low) ** 2 / 4 + (m.test.high - m.test.low) ** 2 / 4) ** 0.5
        if abs(gap) <= noise:
            text = (
                f"Validation ({percent(m.validation.mean)}) and test accuracy ({percent(m.test.mean)}) "
                "agree within "
                "chance, so validation was a fair guide to choose by."
            )
        elif gap > 0:
            text = (
                f"Validation accuracy ({percent(m.validation.mean)}) flattered the champion: on the test "
                "images it is "
                f"{points(gap)} lower, more than chance explains."
            )
        else:
            text = (
                f"Test accuracy ({percent(m.test.mean)}) is {points(-gap)} above validation accuracy "
                f"({percent(m.validation.mean)}), more than chance explains: the splits differ in difficulty."
            )
        said.append(Sentence(text, runs(m.test)))
    elif m.validation:
        said.append(
            Sentence(
                "How far validation accuracy can be trusted cannot be said before a test.",
                runs(m.validation),
            )
        )
    pair = m.confusion.worst_pair() if m.confusion else None
    if m.confusion and pair:
        said.append(
            Sentence(
                f"The most frequent confusion is {article(pair[0])} called {article(pair[1])}, "
                f"{percent(pair[2], 1)} of the "
                f"{pair[0]} images of the {m.confusion.split} set: the first thing to improve.",
                run(*m.confusion.run_ids),
            )
        )
    return tuple(said)


def _search_sentence(m: Measures) -> Sentence:
    """How far the search came, and whether it was still coming further when it ended."""
    s = m.search
    if s.best is None or s.best_trial is None or s.last_trial is None or s.first is None:
        return Sentence("No trial is complete, so the search has taught nothing yet.", run(m.run_id))
    traces = (*run(m.run_id), *run(s.best_run))
    best = f"{percent(s.best, 1)} validation accuracy (trial {s.best_trial})"
    if s.complete == 1:
        text = f"One trial is complete, at {best}: too few to say whether more would help."
        return Sentence(text, traces)
    improved = s.best > s.first
    if improved:
        opening = f"The search went from {percent(s.first, 1)} (first complete trial) to {best}"
    else:
        opening = f"The first complete trial stayed the best, at {best}"
    if s.complete < FEW_TRIALS:
        ending = f"; {s.complete} complete trials are too few to say whether more would help."
    elif not improved:
        ending = f": none of the {s.complete - 1} complete trials after it did better."
    elif s.best_trial >= LATE * s.last_trial:
        ending = ", in the last fifth of the search: it had not levelled off, and more trials may find better."
    else:
        after = s.last_trial - s.best_trial
        ending = f", and found none better in the {after} trial numbers after it: it had levelled off."
    return Sentence(opening + ending, traces)


def pruning_sentence(m: Measures) -> Sentence:
    saved = m.search.saved_fraction
    if saved is None:
        return Sentence("What pruning saved was not recorded.", run(m.run_id))
    if saved <= 0:
        return Sentence("Pruning saved nothing.", run(m.run_id))
    judged = "which meets" if saved >= 0.5 else "short of"
    return Sentence(
        f"Pruning saved {percent(saved, 0)} of the training compute that full trials would have taken, "
        f"{judged} the aim of half.",
        run(m.run_id),
    )


# ---------------------------------------------------------------- parts of sentences


def _comparison(ours: Estimate, theirs: Accuracy, name: str, what: str = "") -> Sentence:
    gap = ours.mean - theirs.accuracy
    opening = {
        "higher": f"It is {points(gap)} more accurate than {name}",
        "lower": f"It is {points(-gap)} less accurate than {name}",
        "level": f"It cannot be told from {name}",
    }[against(ours, theirs.accuracy)]
    figure = theirs.stated
    same = "same test images" + ("" if theirs.same_data else ", but trained on more")
    return Sentence(f"{opening} ({figure}; {same}){what}.", (*runs(ours), f"source/{theirs.key}"))


def _weakest(m: Measures) -> list[Sentence]:
    tested = [c for c in m.classes if c.test is not None]
    if not tested:
        return []
    weakest = min(tested, key=lambda c: (c.shown, c.name))
    clears = "clears the bar too" if weakest.shown >= m.bar.target else "misses the bar"
    text = (
        f"The weakest class, {weakest.name}, is right {percent(weakest.shown, 1)} of the time and by itself {clears}."
    )
    return [Sentence(text, (*run(*m.subject_runs), "source/bar"))]


def _retraining(m: Measures) -> Sentence:
    cost, least = m.cost, _least_training(m)
    if cost.retrain_seconds is None:
        return Sentence("Retraining: no run of the recipe has finished, so it has no price yet.", run(m.run_id))
    whose = "champion" if m.has_champion else "best trial"
    took = f"Retraining: one run of the {whose}'s recipe takes {duration(cost.retrain_seconds)}"
    if cost.retrain_usd is None or least is None:
        return Sentence(f"{took}; {_why_no_money(m)}.", run(*cost.runs))
    side = "under" if cost.retrain_usd < least.least_purchase else "not under"
    return Sentence(
        f"{took}, {money(cost.retrain_usd)}, {side} the {money(least.least_purchase)} of {_purchase(least)}. "
        "How many hours a service would need for this data is not published.",
        (*run(*cost.runs), *_machine(m), f"source/{least.key}"),
    )


def _serving(m: Measures) -> Sentence:
    cost, bought = m.cost, _least_prediction(m)
    if cost.images_per_second is None:
        return Sentence("Serving: no network was timed, so labelling has no price yet.", run(m.run_id))
    if cost.per_1000_usd is None:
        return Sentence(f"Serving: labelling has no price yet; {_why_no_money(m)}.", run(m.run_id))
    bound = (
        f"Serving: at the {cost.images_per_second:,.0f} images a second of training, 1,000 images "
        "labelled in one go cost "
        f"{money(cost.per_1000_usd)}. That is an upper bound: labelling leaves out the backward pass"
    )
    traces = (*run(*cost.runs), *_machine(m))
    if bought is None:
        return Sentence(f"{bound}. No service that can be trained on these classes is priced by the image.", traces)
    side = "less" if cost.per_1000_usd < bought.usd else "more" if cost.per_1000_usd > bought.usd else "the same as"
    than = "" if side == "the same as" else " than"
    return Sentence(
        f"{bound}. It is {side}{than} the {money(bought.usd)} of {bought.name}.",
        (*traces, f"source/{bought.key}"),
    )


def _kept_on(m: Measures) -> list[Sentence]:
    """A machine kept on for a month, against an idle endpoint and against a price by the image."""
    cost, bought = m.cost, _least_prediction(m)
    endpoint = min(m.published.role("endpoint"), key=lambda p: p.usd, default=None)
    if cost.month_usd is None or not cost.runs:
        return []
    text = f"Kept on for a month ({HOURS_A_MONTH:g} h), the machine costs {money(cost.month_usd)}"
    traces = _machine(m)
    if endpoint:
        month = endpoint.usd * HOURS_A_MONTH
        side = "more" if month > cost.month_usd else "less"
        text += f"; the cheapest endpoint, which bills while idle too, costs {money(month)}, which is {side}"
        traces += (f"source/{endpoint.key}",)
    text += "."
    if bought:
        images = round(cost.month_usd / bought.usd * 1000)
        text += f" Below {images:,} images a month, {bought.name} by the image is cheaper than a machine kept on."
        traces += (f"source/{bought.key}",)
    return [Sentence(text, traces)]


def _least_training(m: Measures) -> Price | None:
    return min(
        (p for p in m.published.role("training") if p.custom),
        key=lambda p: (p.least_purchase, p.key),
        default=None,
    )


def _least_prediction(m: Measures) -> Price | None:
    return min((p for p in m.published.role("prediction") if p.custom), key=lambda p: (p.usd, p.key), default=None)


def _training_cheaper(m: Measures) -> bool | None:
    least = _least_training(m)
    return None if m.cost.study_usd is None or least is None else m.cost.study_usd <= least.least_purchase


def _prediction_cheaper(m: Measures) -> bool | None:
    bought = _least_prediction(m)
    return None if m.cost.per_1000_usd is None or bought is None else m.cost.per_1000_usd <= bought.usd


def _reaching(m: Measures, target: float) -> Accuracy | None:
    """The public system that reaches the target by the least accurate figure of its kind, best first."""
    public = [a for a in m.published.group("public") if a.accuracy >= target]
    return max(public, key=lambda a: (a.accuracy, a.key), default=None)


def _close_call(m: Measures) -> str:
    bar = percent(m.bar.target, 0)
    if m.test is not None and m.test.high < m.bar.target:
        others = "every published system listed that can be downloaded"
        return f"The network of this study misses the {bar} bar, and so does {others}."
    return f"The accuracy is too close to the {bar} bar: its 95 % interval lies on both sides."


def _why_no_money(m: Measures) -> str:
    if m.cost.machine is None:
        return (
            f"no price is listed for compute on {m.cost.device!r}" if m.cost.device else "its device was not recorded"
        )
    if _least_training(m) is None:
        return "no service's training is priced"
    if m.cost.seconds is None:
        return "how long the study took was not recorded"
    return "its speed was not recorded"


def _purchase(price: Price) -> str:
    hours = "one hour" if price.least_hours == 1 else f"{price.least_hours:g} hours"
    return f"{price.name}, {hours}"


def _vendor(price: Price) -> str:
    return price.name.partition(",")[0]


def _named(accuracy: Accuracy | None) -> str:
    return f"{accuracy.name} ({percent(accuracy.accuracy, 1)})" if accuracy else "nothing listed"


def _machine(m: Measures) -> tuple[str, ...]:
    return (f"source/{m.cost.machine.key}",) if m.cost.machine else ()


def _small(name: str) -> str:
    return name[:1].lower() + name[1:]


def _about(m: Measures) -> str:
    return "about " if m.cost.estimated else ""
