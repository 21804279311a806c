"""What is said of the published systems and their reproductions: each sentence follows from the numbers."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from experiments.pages.text import CitedText, count_word, listed, percent, plural, points, run, signed, span
from experiments.reading.published_curves import FIRST_BATCHES
from experiments.reading.results import Result, departures
from experiments.systems.reproduction import Gap, Meeting, System, best_epoch

NOT_RUN = "not run yet"


def headline(systems: Sequence[System]) -> CitedText:
    """How many systems were run to the end of their schedule, and how they came out; see `sentence` for the traces."""
    count, whole = count_word(len(systems)), [s for s in systems if s.whole]
    if not whole:
        return CitedText(f"None of the {count} published systems has been run to the end of its schedule yet.")
    if len(whole) == 1:
        place = "within a point of its published accuracy, or above"
        place = place if whole[0].near else "too low by more than a point"
        text = f"One of the {count} published systems was run to the end of its schedule: {whole[0].name}, {place}."
        return CitedText(text)
    opening = f"{count_word(len(whole)).capitalize()} of the {count} published systems were run to the end of their"
    short = listed([s.name for s in whole if not s.near])
    if not short:
        return CitedText(f"{opening} schedules; each is within a point of its published accuracy, or above.")
    verb = "is" if sum(not s.near for s in whole) == 1 else "are"
    return CitedText(f"{opening} schedules; {short} {verb} more than a point below the published accuracy.")


def sentence(system: System) -> CitedText:
    """How a system's reproduction stands to what was published."""
    name, stated = system.name, system.published.stated
    if not system.runs:
        return CitedText(f"{name}: {NOT_RUN}; {stated} was published.", traces_of(system))
    if not system.faithful:
        text = f"{name}: the shipped recipe was {NOT_RUN}, only another one; {stated} was published."
        return CitedText(text, traces_of(system))
    accuracy, gap = system.accuracy, system.gap
    if accuracy is None or gap is None:
        return _partial(system)
    over = f"mean of {len(accuracy.run_ids)} runs" if len(accuracy.run_ids) > 1 else "one run"
    judged = "it counts as reproduced" if system.near else "more than a point short, it does not count as reproduced"
    if not system.near and gap.interval and gap.interval[1] >= 0:
        judged += ", though chance could explain that"
    text = (
        f"{name} reaches {percent(accuracy.mean)} on the test images ({over}), {_side(gap.mean)} the published "
        f"{stated} (95 % interval of the difference: {interval(gap)} points); {judged}."
    )
    return CitedText(text, traces_of(system))


def _partial(system: System) -> CitedText:
    """What can be said of a schedule that was cut short: nothing about its end."""
    text = f"{system.name} was run for {epochs(system.judged)} planned epochs"
    met = system.meeting
    reached = listed([percent(r.test.accuracy) for r in system.judged if r.test is not None])
    if reached and (met is None or met.quantity != "test_accuracy"):
        text += f", which gave {reached} on the test images"
    if met is None:
        text += "; no published figure belongs to that epoch"
    elif met.quantity == "test_accuracy":
        text += (
            f": at epoch {met.epoch:g} its test accuracy is {percent(met.ours)}, {_side(met.gap.mean)} the "
            f"{percent(met.published)} of the published curve at that epoch"
        )
    else:
        text += f": {_losses(met)}"
    return CitedText(f"{text}. What the whole schedule reaches has not been measured.", traces_of(system))


def sights(system: System) -> CitedText:
    """What to see in the figure of a system's curves."""
    text = "Ours is solid, what was published is dashed"
    text += "; the first seed is strong, the others are faint" if len(system.faithful) > 1 else ""
    met = system.meeting
    if met is not None and met.quantity == "train_loss":
        text += f": {_losses(met)}"
    elif met is not None:
        text += (
            f": at epoch {met.epoch:g} test accuracy is {percent(met.ours)} for ours and {percent(met.published)} "
            "as published"
        )
    elif (theirs := system.curves.series.get("val_loss")) is not None and (ours := _lowest(system)) is not None:
        text += f": validation loss is {ours:.2f} nats an image where ours is lowest, {min(theirs.values):.2f} where "
        text += "the published one is"
    elif not system.curves.series:
        text += f": only the accuracy at the end was published, {system.published.stated}"
    return CitedText(f"{text}.", traces_of(system))


def _lowest(system: System) -> float | None:
    """The lowest validation loss of each judged run, averaged."""
    lows = [min((p.watched_loss for p in r.curve if p.watched_loss is not None), default=None) for r in system.judged]
    known = [low for low in lows if low is not None]
    return statistics.fmean(known) if known and len(known) == len(lows) else None


def _losses(met: Meeting) -> str:
    return (
        f"over the first 250 batches of epoch {_epoch_of(met)} the mean training loss is "
        f"{met.ours:.3f} nats an image for ours and {met.published:.3f} as published"
    )


def _epoch_of(met: Meeting) -> int:
    """The epoch that a loss over first batches is of."""
    return round(met.epoch - FIRST_BATCHES) + 1


def classes_sentence(system: System) -> CitedText | None:
    """Whether ours too finds animals harder than vehicles, which the published analysis calls its weakness."""
    rows = {row.name: row for row in system.classes}
    if not rows:
        return None
    animals, vehicles = rows["animals"], rows["vehicles"]
    theirs = points(vehicles.published - animals.published)
    text = f"The published network is right {theirs} less often on animals than on vehicles"
    if animals.ours is None or vehicles.ours is None:
        return CitedText(f"{text}; ours has not been run to the end of its schedule.", traces_of(system))
    gap = vehicles.ours - animals.ours
    return CitedText(f"{text}, ours {points(gap) if gap > 0 else 'is not'}.", traces_of(system))


_PECULIAR: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "five_conv": (
            "The published accuracy comes after 20 epochs and 20 more at learning rate 1e-5, and only the first 20 "
            "have a published loss: the mean over the first 250 batches of each, drawn where those batches end.",
        ),
        "three_conv": (
            "The published log goes on from an earlier run, so its epoch 1 is not the first one of that network: its "
            "curves show level and direction, but its epochs cannot be matched with ours.",
            "Its printed losses are sums over a split divided by 50,000; here they are means, so divided by 0.8 "
            "(training) or 0.2 (validation).",
        ),
        "block_cnn": (
            "The published accuracy is a whole percent: half a point of the difference may be rounding.",
            "Widths but the last, the strength of the jitter, weight decay, the clip value, the batch size and the "
            "number of epochs were not published; those of the recipe were chosen.",
        ),
        "dynamic_conv": ("The published best is the highest of 60 looks at the test images, so it flatters.",),
        "custom_resnet": (
            "Its printed test losses are the mean times 20 batches over 10,000 images; here they are means, which the "
            "four printed decimals leave uncertain by 0.025.",
            "The published training loss is that of the last batch of each epoch alone, and is not drawn.",
        ),
    }
)


def notes(system: System) -> tuple[CitedText, ...]:
    """What is not comparable, or only with care."""
    said = [CitedText(text, (f"source/{system.name}",)) for text in _PECULIAR[system.name]]
    for r in system.runs:
        if other := departures(r, system.recipe):
            text = f"Seed {r.seed} was trained by another recipe than the shipped one ({listed(other)}): not counted."
            said.append(CitedText(text, run(r.run_id)))
        elif system.whole and not r.whole:
            text = f"Seed {r.seed} has not come to the end of its schedule: not counted."
            said.append(CitedText(text, run(r.run_id)))
    judged = system.judged
    if judged and "test_accuracy" in system.curves.series and any(r.watched != "test" for r in judged):
        text = "Our curve by epoch is of validation images, the published one of the test images."
        said.append(CitedText(text, _ids(judged)))
    if any(r.kept == "best" for r in judged):
        said.append(CitedText("The weights tested are those of the lowest validation loss.", _ids(judged)))
    if judged:
        machines = listed(list(dict.fromkeys(r.machine for r in judged)))
        text = f"Ours ran on {machines}; hardware and precision of the published run are not known"
        text += ", so seconds an epoch compare machines as well as code" if system.curves.seconds is not None else ""
        said.append(CitedText(f"{text}. Our seconds are of training alone, without validation.", _ids(judged)))
    return tuple(said)


def what_runs_are(systems: Sequence[System]) -> dict[str, str]:
    """Run id -> what it is, for the list of runs."""
    return {r.run_id: f"reproduction of {r.name}, seed {r.seed}, {epochs([r])} epochs" for s in systems for r in s.runs}


def traces_of(system: System) -> tuple[str, ...]:
    return (*_ids(system.judged or system.runs), f"source/{system.name}")


def _ids(results: Sequence[Result]) -> tuple[str, ...]:
    return run(*(r.run_id for r in results))


def _side(gap: float) -> str:
    if abs(gap) < 5e-5:
        return "level with"
    return f"{points(abs(gap))} {'above' if gap > 0 else 'below'}"


# ---------------------------------------------------------------- cells of tables


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table, with what is printed small below it."""

    text: str
    note: str = ""


COLUMNS = ("Published", "Reproduced", "Difference, points", "Epochs", "Seconds an epoch")
_NOTHING = Cell("\N{EN DASH}")


def cells(system: System) -> tuple[Cell, ...]:
    """A system's row in the table of all systems, under `COLUMNS`."""
    judged, met, accuracy, gap = system.judged, system.meeting, system.accuracy, system.gap
    published, ours, difference = Cell(system.published.stated), Cell(NOT_RUN), _NOTHING
    if accuracy is not None:
        ours, difference = Cell(percent(accuracy.mean), span(accuracy)), _points(gap)
    elif met is not None and met.quantity == "test_accuracy":
        when = f"at epoch {met.epoch:g}"
        published = Cell(published.text, f"{percent(met.published)} {when}")
        ours, difference = Cell(percent(met.ours), when), _points(met.gap)
    elif judged:
        ours = Cell("not to the end yet")
    elif system.runs:
        ours = Cell(NOT_RUN, "only another recipe")
    timed = system.curves.seconds
    seconds_ = Cell(seconds(judged) or _NOTHING.text, "" if timed is None else f"{second(timed)} published")
    return published, ours, difference, Cell(epochs(judged) or _NOTHING.text), seconds_


@dataclass(frozen=True, slots=True)
class Row:
    """One quantity of one system."""

    what: str
    published: Cell
    ours: Cell
    difference: Cell


def rows(system: System) -> tuple[Row, ...]:
    """What can be compared of one system, quantity by quantity."""
    said, met, judged = [], system.meeting, system.judged
    ours = Cell(percent(system.accuracy.mean), span(system.accuracy)) if system.accuracy else Cell("not measured")
    said.append(Row("Test accuracy at the end", Cell(system.published.stated), ours, _points(system.gap)))
    best = system.curves.best
    if best is not None or system.best is not None:
        theirs = Cell(percent(best[1]), f"epoch {best[0]:g}") if best else Cell("not published")
        ours = Cell(percent(system.best.mean), best_epochs(system)) if system.best else Cell("not measured")
        said.append(Row("Best test accuracy of any epoch", theirs, ours, _points(system.best_gap)))
    if met is not None and met.quantity == "test_accuracy" and not system.whole:
        row = (Cell(percent(met.published)), Cell(percent(met.ours)), _points(met.gap))
        said.append(Row(f"Test accuracy at epoch {met.epoch:g}", *row))
    elif met is not None and met.quantity == "train_loss":
        row = (Cell(f"{met.published:.3f}"), Cell(f"{met.ours:.3f}"), Cell(f"{met.gap.mean:+.3f}"))
        said.append(Row(f"Training loss, first 250 batches of epoch {_epoch_of(met)}", *row))
    lost = system.curves.series.get("test_loss")
    tested = [r.test.loss for r in system.whole if r.test is not None]
    if lost is not None and tested:
        loss = statistics.fmean(tested)
        row = (Cell(f"{lost.values[-1]:.3f}"), Cell(f"{loss:.3f}"), Cell(f"{loss - lost.values[-1]:+.3f}"))
        said.append(Row("Test loss at the end, nats an image", *row))
    timed = system.curves.seconds
    theirs = Cell("not published") if timed is None else Cell(second(timed))
    said.append(Row("Training seconds an epoch", theirs, Cell(seconds(judged) or "not measured"), _NOTHING))
    said.append(Row("Epochs run, of those planned", Cell(_PLANNED[system.name]), Cell(epochs(judged)), _NOTHING))
    return tuple(said)


_PLANNED: Mapping[str, str] = MappingProxyType(
    {
        "five_conv": "20, then 20 more",
        "three_conv": "17 logged of 50",
        "block_cnn": "not published",
        "dynamic_conv": "60 of 60",
        "custom_resnet": "24 of 24",
    }
)


def _points(gap: Gap | None) -> Cell:
    return _NOTHING if gap is None else Cell(signed(gap.mean), interval(gap))


def epochs(results: Sequence[Result]) -> str:
    """Epochs run of those planned, such as "2 of 60"."""
    done = sorted({(r.epochs_run, r.epochs_planned) for r in results})
    return listed([f"{round(run_, 2):g} of {planned:g}" for run_, planned in done])


def interval(gap: Gap) -> str:
    return f"{signed(gap.interval[0])} to {signed(gap.interval[1])}" if gap.interval else ""


def seconds(results: Sequence[Result]) -> str:
    """Training seconds an epoch: the mean over runs, or the range where they ran on different machines."""
    times = [r.seconds_an_epoch for r in results]
    if not times:
        return ""
    if len({r.machine for r in results}) == 1:
        return second(statistics.fmean(times))
    return f"{second(min(times)).removesuffix(' s')} to {second(max(times))}"


def second(value: float) -> str:
    """
    >>> second(0.5123), second(22.76), second(3651.2)
    ('0.51 s', '22.8 s', '3,651 s')
    """
    return f"{value:.2f} s" if value < 1 else f"{value:.1f} s" if value < 100 else f"{value:,.0f} s"


def best_epochs(system: System) -> str:
    """The epochs at which the whole runs had their highest test accuracy."""
    found = [f"{best[0]:g}" for r in system.whole if (best := best_epoch(r)) is not None]
    return f"{plural(len(found), 'epoch')} {listed(found)}"


def peak_rate(result: Result) -> str:
    """The learning rate of the recipe, or the one that a range test found."""
    rate = result.recipe.get("learning_rate")
    if result.learning_rate_found is not None:
        return f"{result.learning_rate_found:.3g} (found)"
    return f"{rate:g}" if isinstance(rate, int | float) else "\N{EN DASH}"
