"""The sentences under the heads performance, customisation, and learning and improvement. Pure.

Each sentence follows from a stated rule; one that lacks its numbers is replaced by one that says what cannot be said
yet. Those about cost are in `cost_sentences.py`.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from experiments.decision.measures import Measures
from experiments.pages.text import (
    CitedText,
    count_word,
    flops,
    listed,
    percent,
    points,
    run,
    runs,
    short_percent,
    span,
)
from experiments.reading.published import Accuracy, Price
from experiments.sections import cost_sentences
from experiments.sections.learned import FEW_TRIALS
from experiments.stats import Estimate, against, apart, wilson

UNEVEN = 0.10  # a gap between the best and the weakest class from which classes are called uneven
LATE = 0.8  # a best trial in the last fifth of the search means that it was still finding better ones


@dataclass(frozen=True, slots=True)
class Head:
    title: str
    sentences: tuple[CitedText, ...]


def heads_of(m: Measures) -> tuple[Head, Head, Head, Head]:
    """The four heads of the published report."""
    return (
        Head("Performance against the target", performance(m)),
        Head("Customisation", customisation(m)),
        Head("Cost of building, retraining and serving, against buying", cost_sentences.costs(m)),
        Head("Learning and improvement", learning(m)),
    )


def performance(m: Measures) -> tuple[CitedText, ...]:
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
    if public and against(m.test, public.best) == "lower":
        gap = public.best - m.test.mean
        more = "" if public.same_data else " after training on more images"
        note = f" ({public.note})" if public.note else ""
        said.append(
            CitedText(
                f"More can be had where it is worth something: {public.name}, said to reach "
                f"{percent(public.best, 1)} on the same test images{more}, {points(gap)} more{note}.",
                (f"source/{public.key}", *runs(m.test)),
            )
        )
    said += _weakest(m)
    said.append(
        CitedText(
            "What the scenario's vendors would reach on these images is not published, so accuracy is held against the "
            "bar and not against them.",
            tuple(f"source/{v.training.key}" for v in m.scenario.vendors),
        )
    )
    fresh = m.published.fresh_test_set
    low, high = (m.test.mean - p / 100 for p in reversed(fresh.points_lower))
    clears = "still at or above" if low >= m.bar.target else "below" if high < m.bar.target else "on both sides of"
    said.append(
        CitedText(
            f"On images collected anew, networks lost {fresh.points_lower[0]:g} to "
            f"{fresh.points_lower[1]:g} points; "
            f"that would leave {percent(low, 1)} to {percent(high, 1)}, {clears} the bar.",
            ("source/fresh", *runs(m.test)),
        )
    )
    return tuple(said)


def bar_sentence(m: Measures) -> CitedText:
    """Where the accuracy stands on the published bar: target, start, rework."""
    bar, estimate = m.bar, m.test
    target, start, rework = (short_percent(v) for v in (bar.target, bar.start, bar.rework))
    if estimate is None:
        if m.validation is None:
            return CitedText("No trial has finished, so performance cannot be judged yet.", run(m.run_id))
        return CitedText(
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
    return CitedText(text, (*runs(estimate), "source/bar"))


def customisation(m: Measures) -> tuple[CitedText, ...]:
    said = []
    best = m.search.architectures
    if not best:
        said.append(
            CitedText(
                "No architecture has a complete trial, so what choosing one is worth cannot be said.",
                run(m.run_id),
            )
        )
    elif len(best) == 1:
        said.append(
            CitedText(
                f"Only one architecture has a complete trial ({best[0].name}), so what choosing another "
                "is worth "
                "cannot be said.",
                run(best[0].run_id),
            )
        )
    else:
        gap = best[0].best - best[-1].best
        said.append(
            CitedText(
                f"Of the {count_word(len(best))} architectures with a complete trial, the best trials lie "
                f"{points(gap)} of validation accuracy apart, from {best[-1].name} "
                f"({percent(best[-1].best, 1)}) to "
                f"{best[0].name} ({percent(best[0].best, 1)}). Each had its own number of trials, so part of "
                "that is luck.",
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
        said.append(CitedText(text, run(*m.subject_runs)))
    said += _retirements(m)
    services = m.published.role("prediction") + m.published.role("training")
    if services:
        names = {
            True: sorted({_vendor(p) for p in services if p.custom}),
            False: sorted({_vendor(p) for p in services if not p.custom}),
        }
        text = f"Of the services priced here, {listed(names[True]) or 'none'} can be trained on these ten classes"
        text += f"; {listed(names[False])} return labels of their own." if names[False] else "."
        said.append(CitedText(text, tuple(f"source/{p.key}" for p in services)))
    return tuple(said)


def _retirements(m: Measures) -> list[CitedText]:
    """Vendors of the scenario that end their service within the horizon."""
    end = m.as_of + datetime.timedelta(days=365.25 * m.scenario.horizon_years)
    dates = {v.name: min((p.retirement for p in v.prices if p.retirement), default=None) for v in m.scenario.vendors}
    return [
        CitedText(
            f"{vendor.name} ends its service on {date.isoformat()}, within the horizon: its price stands for a "
            "service of "
            "its kind that one would have to move to.",
            tuple(f"source/{p.key}" for p in vendor.prices if p.retirement),
        )
        for vendor in m.scenario.vendors
        if (date := dates[vendor.name]) is not None and date < end
    ]


def learning(m: Measures) -> tuple[CitedText, ...]:
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
        said.append(CitedText(text, runs(m.test)))
    elif m.validation:
        said.append(
            CitedText(
                "How far validation accuracy can be trusted cannot be said before a test.",
                runs(m.validation),
            )
        )
    said += [*_selection(m), *_calibration(m), *_weakest_pair(m)]
    return tuple(said)


def _selection(m: Measures) -> list[CitedText]:
    """What became of the best validation accuracy of the search."""
    s = m.selection
    if s is None:
        return []
    best = f"The best of {s.trials} complete trials had {percent(s.searched)} validation accuracy (trial {s.trial})"
    if s.confirmed is None:
        text = f"{best}. It was not trained again, so how much of that is the luck of the best cannot be said."
        return [CitedText(text, run(s.search_run))]
    traces = (*run(s.search_run), *runs(s.confirmed))
    change = s.confirmed.mean - s.searched
    again = f"{best}; trained again from new seeds, its recipe reached {percent(s.confirmed.mean)}"
    if s.same_compute:
        if s.confirmed.low <= s.searched <= s.confirmed.high:
            judged = "within chance: choosing the best did not flatter it noticeably"
        elif change < 0:
            judged = "more than chance explains: choosing the best flattered it"
        else:
            judged = "more than chance explains: choosing the best did not flatter it"
        word = "less" if change < 0 else "more"
        text = f"{again} with the same compute, {points(abs(change))} {word}, {judged}."
    elif s.search_flops and s.confirm_flops:
        text = (
            f"{again} with {s.confirm_flops / s.search_flops:.3g} times the compute ({flops(s.confirm_flops)} against "
            f"{flops(s.search_flops)}), so what choosing the best did cannot be told from what more training did."
        )
    else:
        text = f"{again}; how the compute of the two compares was not recorded."
    return [CitedText(text, traces)]


def _calibration(m: Measures) -> list[CitedText]:
    """Whether its probabilities can be taken at their word."""
    c = m.calibration
    if c is None:
        return []
    sure, right = c.reliability.mean_confidence, c.reliability.mean_accuracy
    low, high = wilson(right, c.images)
    error = f"expected calibration error {percent(c.reliability.ece, 1)}"
    if low <= sure <= high:
        text = f"On average it is as sure ({percent(sure, 1)}) as it is right ({percent(right, 1)}); {error}."
    else:
        side = "surer" if sure > right else "less sure"
        text = f"It is {side} than it should be: {percent(sure, 1)} on average, and right {percent(right, 1)}; {error}."
    return [CitedText(text, run(*c.runs))]


def _weakest_pair(m: Measures) -> list[CitedText]:
    pair = m.confusion.weakest_pair() if m.confusion else None
    if m.confusion is None or pair is None:
        return []
    text = (
        f"The weakest pair is {pair[0]} and {pair[1]}: {percent(pair[2], 1)} of the images of the two in the "
        f"{m.confusion.split} set are taken for the other, the first thing to improve."
    )
    return [CitedText(text, run(*m.confusion.run_ids))]


def _search_sentence(m: Measures) -> CitedText:
    """How far the search came, and whether it was still coming further when it ended."""
    s = m.search
    if s.best is None or s.best_trial is None or s.last_trial is None or s.first is None:
        return CitedText("No trial is complete, so the search has taught nothing yet.", run(m.run_id))
    traces = (*run(m.run_id), *run(s.best_run))
    best = f"{percent(s.best, 1)} validation accuracy (trial {s.best_trial})"
    if s.complete == 1:
        text = f"One trial is complete, at {best}: too few to say whether more would help."
        return CitedText(text, traces)
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
    return CitedText(opening + ending, traces)


def pruning_sentence(m: Measures) -> CitedText:
    saved = m.search.saved_fraction
    if saved is None:
        return CitedText("What pruning saved was not recorded.", run(m.run_id))
    if saved <= 0:
        return CitedText("Pruning saved nothing.", run(m.run_id))
    judged = "which meets" if saved >= 0.5 else "short of"
    return CitedText(
        f"Pruning saved {percent(saved, 0)} of the training compute that full trials would have taken, "
        f"{judged} the aim of half.",
        run(m.run_id),
    )


# ---------------------------------------------------------------- parts of sentences


def _comparison(ours: Estimate, theirs: Accuracy, name: str, what: str = "") -> CitedText:
    gap = ours.mean - theirs.accuracy
    opening = {
        "higher": f"It is {points(gap)} more accurate than {name}",
        "lower": f"It is {points(-gap)} less accurate than {name}",
        "level": f"It cannot be told from {name}",
    }[against(ours, theirs.accuracy)]
    figure = theirs.stated
    same = "same test images" + ("" if theirs.same_data else ", but trained on more")
    return CitedText(f"{opening} ({figure}; {same}){what}.", (*runs(ours), f"source/{theirs.key}"))


def _weakest(m: Measures) -> list[CitedText]:
    tested = [c for c in m.classes if c.test is not None]
    if not tested:
        return []
    weakest = min(tested, key=lambda c: (c.shown, c.name))
    low, high = (weakest.shown if v is None else v for v in (weakest.low, weakest.high))
    if low >= m.bar.target:
        clears = "by itself clears the bar too"
    else:
        clears = "by itself misses the bar" if high < m.bar.target else "by itself cannot be told from the bar"
    interval = "" if weakest.low is None else f" (95 % interval {100 * low:.1f} to {percent(high, 1)})"
    text = (
        f"The weakest class, {weakest.name}, is right {percent(weakest.shown, 1)} of the time{interval} and {clears}."
    )
    return [CitedText(text, (*run(*m.subject_runs), "source/bar")), *_groups(m)]


def _groups(m: Measures) -> list[CitedText]:
    """Animals against vehicles, where that is more than chance."""
    if m.groups.keys() != {"animals", "vehicles"}:
        return []
    animals, vehicles = m.groups["animals"], m.groups["vehicles"]
    low, high = apart(animals, vehicles)
    both = f"animals {percent(animals.mean, 1)}, vehicles {percent(vehicles.mean, 1)}"
    if low <= 0 <= high:
        text = f"Animals and vehicles cannot be told apart in accuracy: {both}."
    else:
        weaker, gap = (
            ("Animals", -(animals.mean - vehicles.mean)) if high < 0 else ("Vehicles", animals.mean - vehicles.mean)
        )
        text = f"{weaker} are the weaker group, by {points(gap)}: {both}."
    return [CitedText(text, runs(animals))]


def _vendor(price: Price) -> str:
    return price.name.partition(",")[0]


def _small(name: str) -> str:
    return name[:1].lower() + name[1:]
