"""The adapted network beside the champion: accuracy, cost and McNemar's test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from experiments.decision import commands
from experiments.decision.facts import Facts
from experiments.pages.blocks import Block, Cell, Missing, Number, Row, Section, Table, estimate_numbers, numbers_of
from experiments.pages.text import (
    CitedText,
    duration,
    estimate_sources,
    fine_percent,
    flops,
    probability,
    run_sources,
    signed,
    span,
)
from experiments.reading.study import Adapted
from experiments.stats import SIGNIFICANCE_LEVEL, Estimate, McNemar, mcnemar

_UNKNOWN = Cell("unknown", style="missing")


def section(facts: Facts) -> Section:
    """A table of both networks, the test of their difference, and what the adapted one learnt from."""
    title, adapted = "Adapting a pretrained network", facts.study.adapted
    if adapted is None:
        command = commands.adapt(facts.study)
        text = f"No adapted network was tested on these images: `{command}` does that."
        if facts.study.adapting:
            text = f"No adapted network was tested on these images yet: study {facts.study.adapting} has not finished. "
            text += f"If it was interrupted, `{command}` resumes it."
        return Section(title, (Missing(text),))
    test = compared(facts, adapted)
    source = run_sources(adapted.run_id)
    how = f"{adapted.backbone} of {adapted.source} takes images of {adapted.side} pixels, to which these are scaled. A "
    how += f"linear head was fitted to its features in the study {adapted.study}. {_choice(adapted)}"
    blocks: list[Block] = [CitedText(how, source), _table(facts, adapted)]
    if test is not None:
        blocks.append(_difference(facts, adapted, test))
    blocks.append(CitedText(adapted.overlap, source))
    return Section(title, tuple(blocks), {}, tuple(_numbers(adapted, test)))


def compared(facts: Facts, adapted: Adapted) -> McNemar | None:
    """McNemar's test of a run of the champion and the adapted network; None without answers to the same images."""
    ours = facts.study.artifacts.answers.get(_answered(facts))
    if ours is None or adapted.answers is None or ours.true != adapted.answers.true:
        return None
    return mcnemar(ours.right, adapted.answers.right)


def _answered(facts: Facts) -> str:
    """The first run of the champion whose answers are stored; "" without one."""
    return next((r for r in facts.subject_runs if r in facts.study.artifacts.answers), "")


def _choice(adapted: Adapted) -> str:
    """Return what was trained, and why that network was tested and not the other one."""
    if adapted.tuned is None:
        return "Everything below the head was kept as it is."
    tested, kept = ("fine-tuned network", "head") if adapted.is_tuned else ("head", "fine-tuned network")
    return (
        f"Starting from that head, the last blocks were fine-tuned: {fine_percent(adapted.tuned)} validation accuracy, "
        f"{fine_percent(adapted.head)} with the head alone. The more accurate of the two on validation images, the "
        f"{tested}, was tested; the {kept} was not."
    )


def _difference(facts: Facts, adapted: Adapted, test: McNemar) -> CitedText:
    ours, alone, count = f"the {facts.subject}", f"the {facts.subject}", len(facts.subject_runs)
    if count > 1:
        accuracy = fine_percent((test.both + test.first) / test.images)
        ours, alone = f"one of the {facts.subject}'s {count} runs ({accuracy})", "that run"
    better = "better" if test.difference > 0 else "worse"
    judged = f"The adapted network and {ours} do not differ beyond chance"
    if test.p < SIGNIFICANCE_LEVEL:
        judged = f"The adapted network is {better} than {ours}"
    text = f"{judged}: {signed(test.difference)} points on the same {test.images:,} test images. It alone labels "
    text += f"{test.second:,} of them right, {alone} alone {test.first:,} (McNemar's test, {probability(test.p)})."
    return CitedText(text, run_sources(_answered(facts), adapted.run_id))


def _table(facts: Facts, adapted: Adapted) -> Table:
    ours, speed = facts.cost, facts.cost.speed
    single = adapted.serving[0] if adapted.serving else None
    augmented = facts.augmented.mean if facts.augmented is not None else None
    p95 = speed.p95 if speed is not None else None
    servers = next(iter(facts.study.artifacts.http.values()), None), adapted.http
    ours_p95, theirs_p95 = (each.p95 if each is not None else None for each in servers)
    rows: tuple[tuple[str, Callable[[Any], str], float | None, float | None], ...] = (
        ("With test-time augmentation", fine_percent, augmented, adapted.augmented),
        ("Training of the network", duration, ours.retrain_seconds, adapted.seconds),
        ("Compute of that training", flops, ours.retrain_flops, adapted.flops),
        ("Whole study", duration, ours.seconds, adapted.study_seconds),
        ("Weights", "{:,}".format, facts.parameters, adapted.parameters),
        ("Answer to one image (95 %)", duration, p95, single.slow_seconds if single is not None else None),
    )
    if any(servers):
        rows = (*rows, ("The same over HTTP", duration, ours_p95, theirs_p95))
    validation = _cell(fine_percent, facts.validation.mean if facts.validation is not None else None)
    if facts.has_champion:
        validation = replace(validation, note="of its confirmation, which is shorter")
    cells = [
        Row.of("Test accuracy", _accuracy(facts.test), _accuracy(adapted.test)),
        Row.of("Validation accuracy", validation, fine_percent(adapted.validation)),
    ]
    cells += [Row.of(name, _cell(words, champion), _cell(words, other)) for name, words, champion, other in rows]
    how = "Fine-tuned" if adapted.is_tuned else "Adapted"
    return Table(("", facts.subject.capitalize(), f"{how} {adapted.backbone}"), cells, numbers=(1, 2))


def _accuracy(estimate: Estimate | None) -> Cell:
    if estimate is None:
        return _UNKNOWN
    return Cell(fine_percent(estimate.mean), note=span(estimate), sources=estimate_sources(estimate))


def _cell(words: Callable[[Any], str], value: float | None) -> Cell:
    return _UNKNOWN if value is None else Cell(words(value))


def _numbers(adapted: Adapted, test: McNemar | None) -> Iterator[Number]:
    source = run_sources(adapted.run_id)
    yield from estimate_numbers("adapted.test", adapted.test, source)
    units = {"validation": "share", "augmented": "share", "seconds": "seconds", "study_seconds": "seconds"}
    yield from numbers_of("adapted", adapted, source, **units, flops="FLOPs", parameters="weights")
    yield Number("adapted.head_validation", adapted.head, "share", source)
    yield Number("adapted.tuned_validation", adapted.tuned, "share", source)
    yield Number("adapted.pretrained_on", adapted.pretrained_on or None, "text", source)
    yield from numbers_of("adapted.mcnemar", test, source, first="images", second="images", p="probability")
