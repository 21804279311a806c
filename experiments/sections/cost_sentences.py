"""The sentences about money, under the head cost: spent, retraining, serving, and the horizon. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from experiments.decision.costs import (
    Way,
    break_even,
    build,
    buy,
    cheapest,
    machines_on,
    payback_months,
)
from experiments.decision.measures import Measures
from experiments.decision.verdict import machine_sources, vendor_sources, why_no_money
from experiments.pages.text import (
    CitedText,
    count,
    duration,
    flops,
    money,
    percent,
    plural,
    rate,
    run,
    times,
    total,
    years,
)
from experiments.reading.scenario import HOURS_A_MONTH, Vendor


def costs(m: Measures) -> tuple[CitedText, ...]:
    """What was spent, what each part of building and buying costs, and where the two cross."""
    crossings = [_crossing(m, vendor) for vendor in m.scenario.vendors] if build(m.cost, m.scenario) else []
    return (_spent(m), _retraining(m), _serving(m), _kept_on(m), *_horizon(m), *crossings)


@dataclass(frozen=True, slots=True)
class Spent:
    """A row of what was really spent; "not measured" where that is so."""

    what: str
    seconds: str
    flops: str
    energy: str
    usd: str
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """A way to labelled images over the horizon, and the volume at which building costs no more."""

    name: str
    people: str
    training: str
    retraining: str
    serving: str
    total: str
    break_even: str
    ours: bool


@dataclass(frozen=True, slots=True)
class Bill:
    spent: tuple[Spent, ...]
    ways: tuple[Row, ...]
    why_not: str  # building has no row
    note: CitedText


def bill(m: Measures) -> Bill:
    """The tables of the cost section."""
    cost, s, unknown = m.cost, m.scenario, "not measured"
    study, recipe = run(m.run_id), run(*cost.runs)

    def row(
        what: str,
        seconds: float | None,
        work: float | str | None,
        usd: float | None,
        traces: tuple[str, ...],
        most: str = "",
    ) -> Spent:
        return Spent(
            what,
            f"{most}{duration(seconds)}" if seconds is not None else unknown,
            work if isinstance(work, str) else flops(work) if work else unknown,
            unknown,
            f"{most}{money(usd)}" if usd is not None else "no price",
            traces,
        )

    spent = [
        row("the whole study", cost.seconds, cost.flops, cost.study_usd, study),
        row("one retraining", cost.retrain_seconds, cost.retrain_flops, cost.retrain_usd, recipe),
    ]
    if cost.speed:
        most, timed = "at most " if cost.speed.bounded else "", run(*cost.speed.runs)
        one, many = 1000 / cost.speed.per_second, 1000 / cost.speed.per_second_batched
        spent.append(row("1,000 predictions, one by one", one, "none", cost.per_1000_single_usd, timed, most))
        large = f"1,000 predictions, batches of {cost.speed.batch}"
        spent.append(row(large, many, "none", cost.per_1000_usd, timed, most))
    ours = build(cost, s)
    ways = sorted((buy(v, s) for v in s.vendors), key=lambda w: (w.total(s.months), w.name))
    rows = [_row(m, way) for way in ([ours] if ours else []) + ways]
    note = CitedText(
        "Break-even is how many images a month there must be for building to cost no more. Vendors are taken at their "
        "best: the least training that each sells, one endpoint for all images, no hours of people. Storage and "
        "traffic are in neither.",
        (*study, *machine_sources(m), "source/scenario", *dict.fromkeys(t for w in ways for t in vendor_sources(w))),
    )
    return Bill(tuple(spent), tuple(rows), "" if ours else why_no_money(m), note)


def _row(m: Measures, way: Way) -> Row:
    months = m.scenario.months
    volume = ""
    if way.vendor and build(m.cost, m.scenario):
        least = break_even(m.cost, way.vendor, m.scenario)
        volume = "none" if least is None else "any" if least == 0 else count(least)
    return Row(
        "building" if way.vendor is None else way.name,
        total(way.people),
        total(way.training),
        total(way.retraining * months),
        total(way.serving * months),
        total(way.total(months)),
        volume,
        way.vendor is None,
    )


def _spent(m: Measures) -> CitedText:
    cost = m.cost
    about = "about " if cost.estimated else ""
    if cost.seconds is None:
        return CitedText("How long the study took was not recorded, so building has no price yet.", run(m.run_id))
    work = f" and {flops(cost.flops)} of training" if cost.flops else ""
    took = f"Building: the study took {about}{duration(cost.seconds)} of wall time{work}"
    energy = "Energy was not measured: nothing read a power meter"
    if cost.machine is None or cost.study_usd is None:
        return CitedText(f"{took}; {why_no_money(m)}. {energy}.", run(m.run_id))
    fleet = f"{cost.machines} x " if cost.machines > 1 else ""
    fast = f", taken to be as fast as the {cost.processor} it was measured on" if cost.processor else ""
    people = f"{m.scenario.engineering_hours:g} h at {rate(m.scenario.hourly_rate)}"
    return CitedText(
        f"{took}, {money(cost.study_usd)} at {rate(cost.machine.usd)} an hour for {fleet}{cost.machine.name}{fast}. "
        f"People come to {total(m.scenario.people_usd)} ({people}), which the scenario assumes and nobody measured. "
        f"{energy}.",
        (*run(m.run_id), *machine_sources(m), "source/scenario"),
    )


def _retraining(m: Measures) -> CitedText:
    cost = m.cost
    if cost.retrain_seconds is None:
        return CitedText("Retraining: no run of the recipe has finished, so it has no price yet.", run(m.run_id))
    whose = "champion" if m.has_champion else "best trial"
    work = f" ({flops(cost.retrain_flops)})" if cost.retrain_flops else ""
    took = f"Retraining: one run of the {whose}'s recipe takes {duration(cost.retrain_seconds)}{work}"
    if cost.retrain_usd is None:
        return CitedText(f"{took}; {why_no_money(m)}.", run(*cost.runs))
    theirs = "; ".join(f"{v.name} {money(v.training.least_purchase)}" for v in m.scenario.vendors)
    return CitedText(
        f"{took}, {money(cost.retrain_usd)}; the least training that vendors sell: {theirs}. How many hours they would "
        f"need for this data is not published. The scenario retrains {times(m.scenario.retraining_per_year)} a year.",
        (
            *run(*cost.runs),
            *machine_sources(m),
            *(f"source/{v.training.key}" for v in m.scenario.vendors),
            "source/scenario",
        ),
    )


def _serving(m: Measures) -> CitedText:
    """1,000 predictions of our own, one by one and in large batches, against a price by the call."""
    cost, speed = m.cost, m.cost.speed
    if speed is None:
        return CitedText("Serving: no network was timed, so labelling has no price yet.", run(m.run_id))
    if speed.bounded:
        text = (
            "Serving: how fast the network labels was not measured. Training, which does more work for an "
            "image, ran at "
            f"{speed.per_second_batched:,.0f} images a second in batches of {speed.batch}; so an answer takes at most "
            f"{duration(speed.latency)}"
        )
        most = "at most "
    else:
        slow = f" (95 % of them within {duration(speed.slow)})" if speed.slow is not None else ""
        text = (
            f"Serving: one image is labelled in {duration(speed.latency)}{slow}; batches of {speed.batch} at "
            f"{speed.per_second_batched:,.0f} images a second"
        )
        most = ""
    traces = run(*speed.runs)
    single, large = cost.per_1000_single_usd, cost.per_1000_usd
    if single is None or large is None:
        return CitedText(f"{text}. Labelling has no price yet; {why_no_money(m)}.", traces)
    priced = (
        f"{text}. Compute paid by the second comes to {most}{money(single)} for 1,000 images one by one and {most}"
        f"{money(large)} in batches."
    )
    calls = [v for v in m.scenario.vendors if v.per_call]
    listed = "; ".join(f"{v.name} {money(v.per_call.usd)}" for v in calls if v.per_call)
    against = f" Vendors priced by the image, for 1,000: {listed}." if calls else " No vendor is priced by the image."
    sources = tuple(f"source/{v.per_call.key}" for v in calls if v.per_call)
    return CitedText(priced + against, (*traces, *machine_sources(m), *sources))


def _kept_on(m: Measures) -> CitedText:
    """What the latency bar asks for, in machines and endpoints."""
    cost, s = m.cost, m.scenario
    volume = f"{count(s.images_per_month)} images a month"
    if cost.month_usd is None or cost.speed is None or cost.machine is None:
        return CitedText("What a month of labelling costs cannot be said yet.", ("source/scenario",))
    if s.latency_bar_ms is None:
        return CitedText(
            f"The scenario lets images wait: compute is paid by the second, and {volume} leave a machine idle "
            "for the rest.",
            ("source/scenario",),
        )
    machines = machines_on(cost, s)
    month = machines * cost.machine.usd * HOURS_A_MONTH
    ends = [(v, v.endpoint.usd * v.endpoint_hours_per_month) for v in s.vendors if v.endpoint]
    idle = "; ".join(f"{v.name} {total(usd)}" for v, usd in ends)
    text = (
        f"The scenario wants an answer within {duration(s.latency_bar_ms / 1000)}, so {machines} "
        f"{plural(machines, 'machine')} kept on for {volume}: {total(month)} a month, used or idle."
    )
    if ends:
        text += f" Endpoints that bill while idle, a month: {idle}. Their latency is not published."
    sources = tuple(f"source/{v.endpoint.key}" for v, _ in ends if v.endpoint)
    return CitedText(text, (*run(*cost.speed.runs), *machine_sources(m), "source/scenario", *sources))


def _horizon(m: Measures) -> tuple[CitedText, ...]:
    ours, s = build(m.cost, m.scenario), m.scenario
    horizon = years(s.horizon_years)
    ways = sorted((buy(v, s) for v in s.vendors), key=lambda w: (w.total(s.months), w.name))
    totals = "; ".join(f"{w.name} {total(w.total(s.months))}" for w in ways)
    sources = tuple(dict.fromkeys(t for w in ways for t in vendor_sources(w)))
    if ours is None:
        why = f"Neither what building would cost nor a break-even can be said yet: {why_no_money(m)}"
        text = f"Over {horizon}: {totals}. {why}."
        return (CitedText(text, ("source/scenario", *sources)),)
    parts = (
        f"people {total(ours.people)}, the study {total(ours.training)}, retraining "
        f"{total(ours.retraining * s.months)}, serving {total(ours.serving * s.months)}"
    )
    first = CitedText(
        f"Over {horizon} building costs {total(ours.total(s.months))}: {parts}. Buying: {totals}.",
        (*run(m.run_id), *machine_sources(m), "source/scenario", *sources),
    )
    theirs = cheapest(s)
    months = payback_months(ours, theirs)
    if months is None:
        text = f"Against {theirs.name}, what building costs at the start never comes back: a month costs no less."
    elif months == 0:
        text = f"Against {theirs.name}, building costs no more from the first day."
    else:
        text = f"Against {theirs.name}, what building costs at the start has come back after {months:.1f} months."
    return first, CitedText(text, (*run(m.run_id), *machine_sources(m), "source/scenario", *vendor_sources(theirs)))


def _crossing(m: Measures, vendor: Vendor) -> CitedText:
    """The volume from which building costs no more than a vendor."""
    s = m.scenario
    traces = (*run(m.run_id), *machine_sources(m), "source/scenario", *(f"source/{p.key}" for p in vendor.prices))
    volume = break_even(m.cost, vendor, s)
    over = f"over {years(s.horizon_years)}"
    if volume is None:
        return CitedText(f"Break-even with {vendor.name}: at no volume does building cost as little {over}.", traces)
    if volume == 0:
        text = f"Break-even with {vendor.name}: building costs no more at any volume that one machine carries, {over}."
        return CitedText(text, traces)
    return CitedText(
        f"Break-even with {vendor.name}: {count(volume)} images a month; above, building costs less {over}. "
        "The scenario "
        f"has {percent(s.images_per_month / volume, 0)} of that.",
        traces,
    )
