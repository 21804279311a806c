"""Costs in the report: the scenario, what was spent, and every way over the horizon."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace

import plotly.graph_objects as go

from experiments.decision.assumptions import stated_assumptions
from experiments.decision.costs import DAYS_A_MONTH, Cheapest, Option, cheapest_by_volume
from experiments.decision.facts import Facts
from experiments.decision.machines import LOAD_LIMIT, machines_on
from experiments.decision.verdict import Way, ways_of
from experiments.pages.blocks import (
    Block,
    Cell,
    Figure,
    Heading,
    Missing,
    Number,
    Pairs,
    Row,
    Section,
    Table,
    numbers_of,
)
from experiments.pages.plots import add_line, canvas, in_figure, way_colours
from experiments.pages.text import (
    CitedText,
    count,
    count_months,
    count_word,
    duration,
    flops,
    images_a_month,
    listed,
    money,
    run_sources,
    short_duration,
    times,
    total,
    years,
)
from experiments.reading.published import UNITS, ByImage, ByMachine, rate
from experiments.reading.scenario import HOURS_A_MONTH, Vendor, slug
from sweeps.words import counted, percent

CROPPED = 3.0  # times the cost of building, or else of the first way: what lies above leaves the figure
STRETCHES = 4  # that a sentence lists


def section(facts: Facts) -> Section:
    scenario, ways = facts.scenario, ways_of(facts)
    options = [way.option for way in ways]
    ours = options[0]
    assumed = f"These are assumptions, from `{scenario.file}`: copy it, change them, and pass it with `--scenario`."
    downloads = "" if not scenario.downloads else ", a download at its people and labels"
    if downloads and scenario.latency_bar_ms is not None:
        downloads += " and one machine"
    text = f"A trained vendor is priced at the least training that it sells{downloads}. Traffic is in no price, and "
    text += "later years are not discounted."
    by_volume = volumes(facts)
    blocks: list[Block] = [
        Heading(f"Every way over {years(scenario.horizon_years)}"),
        Figure("cost_curves", "Cost over the horizon", _caption(facts, ways), cost_curves(options, scenario.months)),
        _options_table(facts, options),
        CitedText(text, (*facts.cost_sources, *_sources(options))),
        *([_volume_sentence(facts, by_volume)] if by_volume else []),
        *([Missing(f"The cost of building is not known yet: {ours.unpriced}.")] if ours.unpriced else []),
        Heading("What was spent"),
        _spent_table(facts),
        Heading("The scenario"),
        Pairs.of(stated_assumptions(facts)),
        CitedText(assumed),
    ]
    sentences = (_study(facts), _retraining(facts), _serving(facts), _kept_on(facts), *_horizon(facts, options))
    recommendation = {"cost": sentences, "customisation": tuple(_trainable(facts))}
    numbers = (*_cost_numbers(facts), *_option_numbers(facts, options, by_volume), *_assumed_numbers(facts))
    return Section("The money", tuple(blocks), recommendation, numbers)


def cost_curves(options: Sequence[Option], months: float) -> go.Figure:
    """The cost of each way by month; building has a solid line. A service ends where its line does."""
    figure = canvas(height=280, left=72)
    colours = way_colours([option.name for option in options])
    priced = [option for option in options if option.kind != "build" or not option.unpriced]
    for option in priced:
        end, last = option.total(months), min(months, option.ends)
        name = f"{option.name}, {option.stated(months)}"
        style = {"width": 3} if option.kind == "build" else {"dash": "dash"}
        hover = f"{in_figure(option.name)}, month %{{x:.0f}}: $%{{y:,.0f}}"
        x, y, colour = [0, round(last, 4)], [round(option.once, 2), round(end, 2)], colours[option.name]
        add_line(figure, x, y, name=name, colour=colour, hover=hover, **style)
    figure.update_xaxes(title="months", rangemode="tozero")
    figure.update_yaxes(title="cost so far (US dollars)", tickformat=",.0f", range=[0, _top(options, months)])
    return figure


def _top(options: Sequence[Option], months: float) -> float:
    """Return the cost at which the figure ends: a single dear vendor would squash the others."""
    totals = [option.total(months) for option in options if option.kind != "build" or not option.unpriced]
    return round(1.05 * min(max(totals), CROPPED * (totals[0] or max(totals))), 2)


def volumes(facts: Facts) -> tuple[Cheapest, ...]:
    """The way that costs least over the horizon at each volume, among those that miss no bar there and have a price.

    Empty if there are not two of them.
    """
    names: set[str] = set()

    def totals(images: float) -> dict[str, float]:
        at = replace(facts, scenario=replace(facts.scenario, images_per_month=images))
        options = [way.option for way in ways_of(at) if not way.misses and not way.option.unpriced]
        names.update(option.name for option in options)
        return {option.name: option.total(facts.scenario.months) for option in options}

    tariffs = [tariff for way in ways_of(facts) for tariff in way.option.tariffs]
    carries = {tariff.carries for tariff in tariffs if isinstance(tariff, ByMachine)}
    found = cheapest_by_volume(totals, facts.scenario.images_per_month, carries)
    return found if len(names) > 1 else ()


def _caption(facts: Facts, ways: Sequence[Way]) -> CitedText:
    options, months = [way.option for way in ways], facts.scenario.months
    ours, top = options[0], _top(options, months)
    text = f"Lines start at what is paid at once. {_in_time(facts, ways)}"
    if ours.unpriced:
        text = f"Without building, which has no line: {ours.unpriced}."
    if beyond := [option for option in _cheapest_first(options, months)[1:] if option.total(months) > top]:
        text += f" Cut at the top: {listed([f'{option.name} ({option.stated(months)})' for option in beyond])}."
    return CitedText(" ".join(text.split()), (*facts.cost_sources, *_sources(options)))


def _in_time(facts: Facts, ways: Sequence[Way]) -> str:
    """When building and its cheapest rival change places, or which of them costs less all the time."""
    ours, months = ways[0].option, facts.scenario.months
    others = [way.option for way in ways[1:] if not way.misses and not way.option.unpriced]
    if not others or ours.unpriced:
        return ""
    rival = min(others, key=lambda option: (option.total(months), option.name))
    # Both last through the horizon, as a service that ends within it misses a bar.
    first, then = sorted((ours, rival), key=lambda option: (option.once, option.month, option.name))
    saved, a_day = first.month - then.month, 1 / DAYS_A_MONTH
    change = (then.once - first.once) / saved if saved > 0 else math.inf
    if a_day < change < months - a_day:
        until = count_months(change)
        return f"Cheapest so far, of building and {rival.name}: {first.name} for the first {until}, then {then.name}."
    cheaper, dearer = sorted((ours, rival), key=lambda option: (option.total(months / 2), option.name))
    return f"At any time, {cheaper.name} has cost less than {dearer.name}."


def _name(one: Cheapest) -> str:
    return one.name or "none"


def _volume_sentence(facts: Facts, found: Sequence[Cheapest]) -> CitedText:
    """The way that costs least, from volume to volume."""
    over = f"over {years(facts.scenario.horizon_years)}"
    parts = [f"{_name(one)} up to {count(one.end)}" for one in found[:-1]]
    shown = parts[:STRETCHES]
    if len(parts) > STRETCHES:
        shown.append(f"{len(parts) - STRETCHES} more changes")
    low, high = found[0].start, found[-1].end
    text = f"From {count(low)} to {count(high / 1e9)} billion images a month, "
    last, among = _name(found[-1]), "of the ways that miss no bar and have a price"
    if not parts:
        return CitedText(f"{text}{last} costs least {over}, {among}.", facts.cost_sources)
    listing = ", ".join([*shown, f"{last} above"])
    return CitedText(f"{text}these cost least {over}, {among}: {listing}.", facts.cost_sources)


def _spent_table(facts: Facts) -> Table:
    cost, speed, (images, many) = facts.cost, facts.cost.speed, _unit(facts.cost.per_1000_usd)
    study, recipe = (flops(work) if work else "not measured" for work in (cost.flops, cost.retrain_flops))

    def row(what: str, seconds: float | None, work: str, usd: float | None, runs: Sequence[str], most: str = "") -> Row:
        time = "not measured" if seconds is None else f"{most}{duration(seconds)}"
        price = "no price" if usd is None else f"{most}{money(usd)}"
        return Row.of(what, time, work, price, Cell("", sources=run_sources(*runs)))

    rows = [
        row("the whole study", cost.seconds, study, cost.study_usd, [facts.run_id]),
        row("one retraining", cost.retrain_seconds, recipe, cost.retrain_usd, facts.subject_runs),
    ]
    if speed:
        most, large = "at most " if speed.bounded else "", f"batches of {speed.batch}"
        for how, per_second, usd in (
            ("one by one", speed.per_second, cost.per_1000_single_usd),
            (large, speed.per_second_batched, cost.per_1000_usd),
        ):
            paid = usd and usd * images / 1000
            rows.append(row(f"{many} predictions, {how}", images / per_second, "none", paid, speed.runs, most))
    for run_id, http in facts.study.artifacts.http.items():
        for how, per_second in (
            (f"one a request, {http.clients} clients at once", http.per_second),
            (f"{http.batch} a request", http.per_second_batched),
        ):
            usd = None if cost.hourly is None else cost.hourly * images / per_second / 3600
            rows.append(row(f"{many} predictions over HTTP, {how}", images / per_second, "none", usd, [run_id]))
    titles = ("", "Time", "Training compute", "Compute cost", "Runs")
    return Table(titles, rows, numbers=range(1, 4), style="cards tight")


def _options_table(facts: Facts, options: Sequence[Option]) -> Table:
    months, rows = facts.scenario.months, []
    for option in _cheapest_first(options, months):
        lasts = min(months, option.ends)
        people, serving = option.people + option.upkeep * lasts, option.serving * lasts
        parts = (people, option.labels, option.training, option.retraining * lasts, serving, option.storage * lasts)
        sums = [total(usd) if usd else "" for usd in parts]
        ends = f" until it ends, in {count_months(option.ends, months)}" if option.ends < months else ""
        style = "ours" if option.kind == "build" else ""
        rows.append(Row.of(f"{option.name}{ends}", *sums, option.stated(months), style=style))
    titles = ("", "People", "Labels", "First training", "Retraining", "Serving", "Storage", "In all")
    return Table(titles, rows, numbers=range(1, 8), style="cards tight")


def _cheapest_first(options: Sequence[Option], months: float) -> list[Option]:
    """Building, then the others by their cost."""
    return [options[0], *sorted(options[1:], key=lambda option: (option.total(months), option.name))]


def _study(facts: Facts) -> CitedText:
    cost, scenario = facts.cost, facts.scenario
    if cost.seconds is None:
        text = "The duration of the study was not recorded, so building has no price yet."
        return CitedText(text, run_sources(facts.run_id))
    about = "about " if cost.estimated else ""
    work = f" and {flops(cost.flops)} of training" if cost.flops else ""
    took = f"Building: the study took {about}{duration(cost.seconds)} of wall time{work}"
    energy = "Energy was not measured: nothing read a power meter"
    if cost.machine is None or cost.study_usd is None:
        return CitedText(f"{took}; {cost.missing}. {energy}.", run_sources(facts.run_id))
    fleet = f"{cost.machines} x " if cost.machines > 1 else ""
    fast = f", assumed to be as fast as the {cost.processor} of the study" if cost.processor else ""
    people = f"{scenario.engineering_hours:g} h to build and {scenario.maintenance_hours_per_year:g} h a year"
    return CitedText(
        f"{took}, {money(cost.study_usd)} at {rate(cost.machine.usd)} an hour for {fleet}{cost.machine.name}{fast}. "
        f"People cost {total(scenario.people_usd)} ({people}, at {rate(scenario.hourly_rate)}), which the scenario "
        f"assumes and nobody measured. {energy}.",
        facts.cost_sources,
    )


def _retraining(facts: Facts) -> CitedText:
    cost, scenario = facts.cost, facts.scenario
    if cost.retrain_seconds is None:
        text = "Retraining: no run of the recipe has finished, so it has no price yet."
        return CitedText(text, run_sources(facts.run_id))
    work = f" ({flops(cost.retrain_flops)})" if cost.retrain_flops else ""
    took = f"Retraining: one run of the {facts.subject}'s recipe takes {duration(cost.retrain_seconds)}{work}"
    if cost.retrain_usd is None:
        return CitedText(f"{took}; {cost.missing}.", run_sources(*facts.subject_runs))
    trained = {v.name: v.training for v in scenario.vendors if v.training}
    text = f"{took}, {money(cost.retrain_usd)}"
    if trained:
        theirs = "; ".join(f"{name} {money(price.least_purchase)}" for name, price in trained.items())
        text += f"; the least training that vendors sell: {theirs}. The hours that they would need for this data are "
        text += "not published"
    sources = (f"source/{price.key}" for price in trained.values())
    return CitedText(
        f"{text}. The scenario retrains {times(scenario.retraining_per_year)} a year.",
        (*run_sources(*facts.subject_runs), *cost.machine_sources, *sources, "source/scenario"),
    )


def _over_http(facts: Facts) -> str:
    """Return the latency over HTTP as a clause; nothing where it was not measured."""
    speeds = [*facts.study.artifacts.http.values()]
    if not speeds:
        return ""
    latency, p95 = duration(speeds[0].latency), duration(speeds[0].p95)
    return f"; over HTTP in {latency} (95 % within {p95}), of which reading JSON is a part"


def _serving(facts: Facts) -> CitedText:
    """1,000 predictions with the network, one by one and in large batches, beside vendors' prices by the image."""
    cost, speed = facts.cost, facts.cost.speed
    if speed is None:
        return CitedText("Serving: no network was timed, so labelling has no price yet.", run_sources(facts.run_id))
    batched = f"{speed.per_second_batched:,.0f} images a second"
    if speed.bounded:
        text = (
            "Serving: the speed of labelling was not measured. Training, which does more work for an image, ran at "
            f"{batched} in batches of {speed.batch}; so an answer takes at most {duration(speed.latency)}"
        )
    else:
        p95 = f" (95 % of them within {duration(speed.p95)})" if speed.p95 is not None else ""
        text = (
            f"Serving: one image is labelled in {duration(speed.latency)}{p95}; batches of {speed.batch} at {batched}"
            f"{_over_http(facts)}"
        )
    single, large = cost.per_1000_single_usd, cost.per_1000_usd
    if single is None or large is None:
        return CitedText(f"{text}. Labelling has no price yet; {cost.missing}.", run_sources(*speed.runs))
    most = "at most " if speed.bounded else ""
    side = f", with {cost.copies} copies on one machine, each assumed as fast," if cost.copies > 1 else ""
    text += (
        f". Compute paid by the second{side} costs {most}{money(single)} for 1,000 images one by one and "
        f"{most}{money(large)} in batches. "
    )
    waits = facts.scenario.latency_bar_ms is None
    calls = {vendor.name: priced for vendor in facts.scenario.vendors if (priced := _by_image(vendor, waits=waits))}
    prices = "; ".join(f"{name} {' and '.join(priced.values())}" for name, priced in calls.items())
    text += (
        f"Vendors priced by the image, for the first 1,000 that are paid: {prices}."
        if calls
        else "No vendor is priced by the image."
    )
    sources = (f"source/{key}" for priced in calls.values() for key in priced)
    return CitedText(text, (*run_sources(*speed.runs), *cost.machine_sources, *sources))


def _unit(usd_per_1000: float | None) -> tuple[int, str]:
    """Return how many images a price is stated for: a million where 1,000 cost less than a tenth of a cent."""
    return (1_000_000, "a million") if usd_per_1000 is not None and usd_per_1000 < 0.001 else (1000, "1,000")


def _by_image(vendor: Vendor, *, waits: bool) -> dict[str, str]:
    """The vendor's prices of 1,000 images in words, by key: what each costs from its first paid image on."""
    found = {}
    for price, tariff in zip(vendor.labelling(waits=waits), vendor.tariffs(waits=waits), strict=True):
        if isinstance(tariff, ByImage) and price.role != "endpoint":
            (free, usd), *_ = tariff.steps
            found[price.key] = money(1000 * usd / tariff.unit) + (f" ({free:,.10g} a month are free)" if free else "")
    return found


def _kept_on(facts: Facts) -> CitedText:
    """The cost of the latency bar: machines, and endpoints of vendors, that run all month."""
    cost, s = facts.cost, facts.scenario
    volume = images_a_month(s.images_per_month)
    if cost.month_usd is None or cost.speed is None or cost.machine is None:
        return CitedText("A month of labelling has no price yet.", ("source/scenario",))
    if s.latency_bar_ms is None:
        text = f"The scenario lets images wait: compute for {volume} is paid by the second, and no machine is kept on."
        return CitedText(text, ("source/scenario",))
    machines = machines_on(cost, s.images_per_month)
    month = machines * cost.machine.usd * HOURS_A_MONTH
    text = (
        f"The scenario wants an answer within {short_duration(s.latency_bar_ms)}, so "
        f"{counted(machines, 'machine')} {'is' if machines == 1 else 'are'} kept on for {volume}, busy at most "
        f"{percent(LOAD_LIMIT, 0)} of the time: "
        f"{total(month)} a month, used or idle."
    )
    ends = [vendor for vendor in s.vendors if vendor.endpoint]
    if ends:
        idle = "; ".join(f"{vendor.name} {total(_endpoints(vendor, s.images_per_month))}" for vendor in ends)
        text += f" Endpoints that bill while idle, a month: {idle}."
    sources = (f"source/{vendor.endpoint.key}" for vendor in ends if vendor.endpoint)
    return CitedText(text, (*run_sources(*cost.speed.runs), *cost.machine_sources, "source/scenario", *sources))


def _endpoints(vendor: Vendor, images: float) -> float:
    """A month of the endpoints that a vendor keeps ready for so many images, without what it bills for each of them."""
    return sum(t.month(images) for t in vendor.tariffs(waits=False) if isinstance(t, ByMachine))


def _horizon(facts: Facts, options: Sequence[Option]) -> list[CitedText]:
    """The totals over the horizon."""
    scenario, horizon = facts.scenario, f"Over {years(facts.scenario.horizon_years)}"
    months, ours = scenario.months, options[0]
    others = _cheapest_first(options, months)[1:]
    totals = "; ".join(f"{option.name} {option.stated(months)}" for option in others)
    if ours.unpriced:
        text = f"{horizon}: {totals}. The cost of building is not known yet: {ours.unpriced}."
        return [CitedText(text, ("source/scenario", *_sources(options)))]
    labels = f"labels {total(ours.labels)}, " if ours.labels else ""
    parts = (
        f"people {total(scenario.people_usd)}, {labels}the study {total(ours.training)}, retraining "
        f"{total(ours.retraining * months)}, serving {total(ours.serving * months)}"
    )
    text = f"{horizon} building costs {total(ours.total(months))}: {parts}. The others: {totals}."
    return [CitedText(text, (*facts.cost_sources, *_sources(options)))]


def _trainable(facts: Facts) -> Iterator[CitedText]:
    """Services with a price that can be trained on these classes, and those that cannot."""
    services = facts.published.role("prediction") + facts.published.role("training")
    if services:
        custom, fixed = (
            sorted({p.name.partition(",")[0] for p in services if p.custom is wanted}) for wanted in (True, False)
        )
        classes = count_word(len(facts.study.data_set.classes))
        text = f"Of the services priced here, {listed(custom) or 'none'} can be trained on these {classes} classes"
        text += f"; {listed(fixed)} return labels of their own." if fixed else "."
        yield CitedText(text, tuple(f"source/{p.key}" for p in services))


def _sources(options: Sequence[Option]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(source for option in options for source in option.sources))


def _cost_numbers(facts: Facts) -> Iterator[Number]:
    cost, study, machine = facts.cost, run_sources(facts.run_id), facts.cost.machine_sources
    recipe = run_sources(*facts.subject_runs)
    yield Number("cost.study.seconds", cost.seconds, "seconds", study)
    yield Number("cost.study.flops", cost.flops, "FLOPs", study)
    yield Number("cost.study.usd", cost.study_usd, "USD", (*study, *machine))
    yield Number("cost.study.machines", cost.machines, "machines", study)
    yield Number("cost.retraining.seconds", cost.retrain_seconds, "seconds", recipe)
    yield Number("cost.retraining.flops", cost.retrain_flops, "FLOPs", recipe)
    yield Number("cost.retraining.usd", cost.retrain_usd, "USD", (*recipe, *machine))
    yield Number("cost.training.images_per_second", cost.training_per_second, "images a second", recipe)
    if speed := cost.speed:
        timed, bound = run_sources(*speed.runs), " (bound)" if speed.bounded else ""
        yield Number("serving.latency", speed.latency, f"seconds{bound}", timed)
        yield Number("serving.latency95", speed.p95, "seconds", timed)
        yield Number("serving.batch", speed.batch, "images", timed)
        yield Number("serving.images_per_second", speed.per_second_batched, f"images a second{bound}", timed)
        yield Number("serving.load_limit", LOAD_LIMIT, "share of the time that a machine may be busy", timed)
        yield Number("serving.copies", cost.copies, "networks side by side", (*timed, *machine))
        yield Number("serving.per_1000_single", cost.per_1000_single_usd, f"USD{bound}", (*timed, *machine))
        yield Number("serving.per_1000_batched", cost.per_1000_usd, f"USD{bound}", (*timed, *machine))
        for run_id, http in [*facts.study.artifacts.http.items()][:1]:  # the one that the sentences are about
            source = run_sources(run_id)
            yield Number("serving.http_latency", http.latency, "seconds", source)
            yield Number("serving.http_latency95", http.p95, "seconds", source)
            yield Number("serving.http_per_second", http.per_second, "requests a second", source)
            yield Number("serving.http_images_per_second", http.per_second_batched, "images a second", source)
        yield Number("serving.machine_month", cost.month_usd, "USD", machine)


def _option_numbers(facts: Facts, options: Sequence[Option], found: Sequence[Cheapest]) -> Iterator[Number]:
    months = facts.scenario.months
    for option in options:
        if option.kind == "build" and option.unpriced:
            continue
        name, lasts = option.key, min(months, option.ends)
        sources = facts.cost_sources if option.kind == "build" else (*option.sources, "source/scenario")
        bound = " (at least)" if option.unpriced else ""
        paid = {"people": "USD", "labels": "USD", "training": "USD", "once": "USD", "month": f"USD a month{bound}"}
        yield from numbers_of(name, option, sources, **paid)
        over = f"USD over the horizon{bound}"
        yield Number(f"{name}.upkeep", option.upkeep * lasts, over, sources)
        yield Number(f"{name}.people_total", option.people + option.upkeep * lasts, over, sources)
        yield Number(f"{name}.retraining", option.retraining * lasts, over, sources)
        yield Number(f"{name}.serving_month", option.serving, f"USD a month{bound}", sources)
        yield Number(f"{name}.serving", option.serving * lasts, over, sources)
        yield Number(f"{name}.storage", option.storage * lasts, over, sources)
        yield Number(f"{name}.first_year", option.total(12), f"USD in the first year{bound}", sources)
        yield Number(f"{name}.total", option.total(months), over, sources)
        yield Number(f"{name}.ends", option.ends, "months from the end of the study", sources)
    waits = facts.scenario.latency_bar_ms is None
    for vendor in facts.scenario.vendors:
        each = vendor.serving(1000, waits=waits)
        sources = tuple(f"source/{price.key}" for price in vendor.labelling(waits=waits))
        yield Number(f"buy.{slug(vendor.name)}.first_1000", each, "USD for 1,000 images in a month", sources)
    for index, one in enumerate(found):
        yield Number(f"cheapest.{index}.name", one.name or None, "text", facts.cost_sources)
        yield Number(f"cheapest.{index}.up_to", one.end, "images a month", facts.cost_sources)
    ours = options[0]
    if not ours.unpriced and ours.total(months) > 0:
        share = facts.scenario.people_usd / ours.total(months)
        yield Number("build.people_share", share, "share", facts.cost_sources)


def _assumed_numbers(facts: Facts) -> Iterator[Number]:
    """The numbers of the scenario, and the published prices."""
    scenario, machine = facts.scenario, facts.cost.machine
    for field in fields(scenario):
        value = getattr(scenario, field.name)
        if field.name == "is_example":
            continue
        if isinstance(value, int | float) or (value is None and field.name != "compute"):
            yield Number(f"scenario.{field.name}", value, "as in the file", ("source/scenario",))
    yield Number("scenario.people", scenario.people_usd, "USD", ("source/scenario",))
    for price in facts.published.prices:
        unit = f"USD {UNITS[price.role]}"
        yield Number(f"price.{price.key}", price.usd, unit, (f"source/{price.key}",))
        if price.role == "training":
            yield Number(f"price.{price.key}.least_purchase", price.least_purchase, "USD", (f"source/{price.key}",))
        if price.role == "token":
            yield Number(f"price.{price.key}.output", price.usd_output, unit, (f"source/{price.key}",))
    if machine and machine not in facts.published.prices:
        yield Number("price.scenario-compute", machine.usd, "USD an hour", ("source/scenario",))
