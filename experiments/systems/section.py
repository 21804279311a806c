"""Published systems in the report: each beside its reproduction, in one table and a sentence each."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from experiments.decision.facts import Facts
from experiments.pages.blocks import Block, Cell, Missing, Number, Row, Section, Table, estimate_numbers
from experiments.pages.text import (
    NOTHING,
    CitedText,
    estimate_sources,
    fine_percent,
    listed,
    points,
    run_sources,
    signed,
    span,
)
from experiments.reading.published_curves import FIRST_BATCHES
from experiments.reading.results import Result
from experiments.systems.system import CommonEpoch, Gap, System, load_systems

NOT_RUN = "not run yet"


def section(facts: Facts) -> Section:
    """The published systems beside their reproductions."""
    systems = load_systems(facts.published, facts.results)
    blocks: list[Block] = [systems_table(systems), *(sentence(s) for s in systems if s.runs)]
    if len(blocks) > 1:
        text = "A system counts as reproduced within a point of its published accuracy. The interval of one run covers "
        text += "the test images alone, not another seed, and published figures state no spread. Curves, classes "
        blocks.append(CitedText(f"{text}and seeds: `python experiments/compare.py systems`."))
    else:
        text = "None of them has been trained again yet: `python experiments/reproduce.py NAME` does that."
        blocks.append(Missing(text))
    return Section("The published systems", tuple(blocks), numbers=tuple(_numbers(systems)))


def systems_table(systems: Sequence[System]) -> Table:
    """A row for each system: published, reproduced, and the difference."""
    titles = ("System", "Published", "Reproduced", "Difference, points", "Epochs", "Seconds an epoch")
    rows = [Row.of(Cell(s.name, sources=(f"source/{s.name}",)), *_cells(s)) for s in systems]
    return Table(titles, rows, numbers=range(1, 6))


def sentence(system: System) -> CitedText:
    """How the reproduction of a system compares with the published figure."""
    name, stated = system.name, system.published.stated
    accuracy, gap = system.accuracy, system.gap
    if not system.runs:
        text = f"{name}: {NOT_RUN}; {stated} was published."
    elif not system.matching:
        text = f"{name}: the shipped recipe was {NOT_RUN}, only another one; {stated} was published."
    elif accuracy is None or gap is None:
        text = f"{_incomplete(system)}. What the whole schedule reaches has not been measured."
    else:
        over = f"mean of {len(accuracy.run_ids)} runs" if len(accuracy.run_ids) > 1 else "one run"
        verdict = "it counts as reproduced"
        if not system.within_tolerance:
            verdict = f"more than a point {'above' if gap.mean > 0 else 'short'}, it does not count as reproduced"
            chance = gap.interval and gap.interval[0] <= 0 <= gap.interval[1]
            verdict += ", though chance could explain that" if chance else ""
        text = (
            f"{name} reaches {fine_percent(accuracy.mean)} on the test images ({over}), {_side(gap.mean)} the "
            f"published {stated} (95 % interval of the difference: {interval(gap)} points); {verdict}."
        )
    return CitedText(text, system.sources)


def losses(met: CommonEpoch) -> str:
    """The two training losses at a common epoch, in words."""
    return (
        f"over the first 250 batches of epoch {epoch_of_loss(met)} the mean training loss is "
        f"{met.ours:.3f} nats an image for ours and {met.published:.3f} as published"
    )


def epoch_of_loss(met: CommonEpoch) -> int:
    """The epoch whose first batches a loss was measured on."""
    return round(met.epoch - FIRST_BATCHES) + 1


def gap_cell(gap: Gap | None) -> Cell:
    """A difference in points, with its interval below."""
    return Cell(NOTHING) if gap is None else Cell(signed(gap.mean), interval(gap))


def interval(gap: Gap) -> str:
    return f"{signed(gap.interval[0])} to {signed(gap.interval[1])}" if gap.interval else ""


def epochs(results: Sequence[Result]) -> str:
    """Epochs run of those planned, such as "2 of 60"."""
    done = sorted({(r.epochs_run, r.epochs_planned) for r in results})
    return listed([f"{round(run_, 2):g} of {planned:g}" for run_, planned in done])


def seconds(results: Sequence[Result]) -> str:
    """Training seconds an epoch: the mean over runs, or the range if they ran on different machines."""
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


def _incomplete(system: System) -> str:
    """The state of a schedule that was cut short, without a word about its end."""
    text = f"{system.name} was run for {epochs(system.compared)} planned epochs"
    met = system.common_epoch
    if met is not None and met.quantity == "test_accuracy":
        return (
            f"{text}: at epoch {met.epoch:g} its test accuracy is {fine_percent(met.ours)}, {_side(met.gap.mean)} the "
            f"{fine_percent(met.published)} of the published curve at that epoch"
        )
    if reached := listed([fine_percent(r.test.accuracy) for r in system.compared if r.test is not None]):
        text += f", which gave {reached} on the test images"
    return f"{text}: {losses(met)}" if met else f"{text}; no published figure belongs to that epoch"


def _side(gap: float) -> str:
    if abs(gap) < 5e-5:
        return "level with"
    return f"{points(abs(gap))} {'above' if gap > 0 else 'below'}"


def _cells(system: System) -> tuple[Cell, ...]:
    compared, met, accuracy = system.compared, system.common_epoch, system.accuracy
    published, ours, difference = Cell(system.published.stated), Cell(NOT_RUN), Cell(NOTHING)
    if accuracy is not None:
        ours, difference = Cell(fine_percent(accuracy.mean), span(accuracy)), gap_cell(system.gap)
    elif met is not None and met.quantity == "test_accuracy":
        when = f"at epoch {met.epoch:g}"
        published = Cell(published.text, f"{fine_percent(met.published)} {when}")
        ours, difference = Cell(fine_percent(met.ours), when), gap_cell(met.gap)
    elif compared:
        ours = Cell("not to the end yet")
    elif system.runs:
        ours = Cell(NOT_RUN, "only another recipe")
    timed = system.curves.seconds
    own = Cell(seconds(compared) or NOTHING, "" if timed is None else f"{second(timed)} published")
    return published, ours, difference, Cell(epochs(compared) or NOTHING), own


def _numbers(systems: Sequence[System]) -> Iterator[Number]:
    for system in systems:
        name, source = f"system.{system.name}", f"source/{system.name}"
        if system.accuracy:
            sources = (source, *estimate_sources(system.accuracy))
            yield from estimate_numbers(f"{name}.test", system.accuracy, sources)
        for r in system.runs:
            sources = (*run_sources(r.run_id), source)
            yield Number(f"{name}.seed{r.seed}.epochs_run", r.epochs_run, "epochs", sources)
            if r.test is not None:
                yield Number(f"{name}.seed{r.seed}.test", r.test.accuracy, "share", sources)
