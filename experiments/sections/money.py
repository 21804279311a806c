"""Costs in the report: the scenario, what was spent, and building and buying over the horizon."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace

import plotly.graph_objects as go

from experiments.decision.costs import Option, break_even, buy, machines_on, payback_months, vendors
from experiments.decision.facts import Facts
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
from experiments.pages.plots import BLUE, GREEN, MUTED, RUST, add_line, canvas
from experiments.pages.text import (
    CitedText,
    count,
    count_word,
    duration,
    flops,
    listed,
    money,
    percent,
    plural,
    rate,
    run,
    times,
    total,
    years,
)
from experiments.reading.scenario import HOURS_A_MONTH

VENDOR_COLOURS = (BLUE, GREEN, "#8a6fb0", MUTED)  # in the order of the scenario


def section(facts: Facts) -> Section:
    scenario, ours = facts.scenario, facts.building
    options = [*([ours] if ours else []), *(buy(vendor, scenario) for vendor in scenario.vendors)]
    assumed = f"These are assumptions, from `{scenario.file}`: copy it, change them, and pass it with `--scenario`."
    blocks: list[Block] = [
        Heading("The scenario"),
        _scenario(facts),
        CitedText(assumed),
        Heading("What was spent"),
        _spent_table(facts),
        Heading(f"Building and buying over {years(scenario.horizon_years)}"),
        _options_table(facts),
    ]
    if ours is None:
        blocks.append(Missing(f"The cost of building is not known yet: {facts.cost.missing}."))
    text = (
        "Break-even is the number of images a month above which building costs no more. Vendors are priced at their "
        "best: the least training that each sells, one endpoint for all images, and no hours of people. Neither "
        "includes storage and traffic."
    )
    blocks += [
        CitedText(text, (*facts.cost_sources, *_sources(options))),
        Figure("cost_curves", "Cost over the horizon", _caption(facts), cost_curves(options, scenario.months)),
    ]
    even = (_break_even(facts, option) for option in options if ours and option.vendor)
    sentences = (_study(facts), _retraining(facts), _serving(facts), _kept_on(facts), *_horizon(facts), *even)
    recommendation = {"cost": sentences, "customisation": (*_retirements(facts, options), *_trainable(facts))}
    numbers = (*_cost_numbers(facts), *_option_numbers(facts, options), *_assumed_numbers(facts))
    return Section("The money", tuple(blocks), recommendation, numbers)


def cost_curves(options: Sequence[Option], months: float) -> go.Figure:
    """What each option has cost after so many months; building has a solid line."""
    figure = canvas(height=340, left=72)
    colours = itertools.cycle(VENDOR_COLOURS)
    for option in options:
        end = option.total(months)
        name = f"{option.name}, {total(end)}"
        style = {"colour": next(colours), "dash": "dash"} if option.vendor else {"colour": RUST, "width": 3}
        hover = f"{option.name}, month %{{x:.0f}}: $%{{y:,.0f}}"
        add_line(figure, [0, round(months, 4)], [round(option.once, 2), round(end, 2)], name=name, hover=hover, **style)
    figure.update_xaxes(title="months", rangemode="tozero")
    figure.update_yaxes(title="cost so far (US dollars)", rangemode="tozero", tickformat=",.0f")
    return figure


def _caption(facts: Facts) -> CitedText:
    if facts.building is None:
        text = f"Vendors only: {facts.cost.missing}, so building has no line."
        return CitedText(text, (*facts.cost_sources, *facts.cheapest.sources))
    payback = _payback(facts, facts.building)
    return replace(payback, text=f"Lines start at what is paid at once. {payback.text}")


def _payback(facts: Facts, ours: Option) -> CitedText:
    """The time after which building has paid back what it costs at the start."""
    theirs = facts.cheapest
    months = payback_months(ours, theirs)
    text = f"Against {theirs.name}, the cheapest vendor, building "
    if months is None:
        text += "never pays back what it costs at the start: a month costs no less."
    elif months == 0:
        text += "costs no more from the first day."
    else:
        text += f"has paid back what it costs at the start after {months:.1f} months"
        text += "." if months <= facts.scenario.months else ", beyond the horizon."
    return CitedText(text, (*facts.cost_sources, *theirs.sources))


def _scenario(facts: Facts) -> Pairs:
    s, machine = facts.scenario, facts.cost.machine
    waits = "none: images can wait, and compute is paid by the second"
    rows = {
        "Images a month": count(s.images_per_month),
        "Accuracy bar": f"{facts.bar.figure} of the test images",
        "Latency bar": waits if s.latency_bar_ms is None else duration(s.latency_bar_ms / 1000),
        "Horizon": years(s.horizon_years),
        "People, to build": f"{s.engineering_hours:g} h at {rate(s.hourly_rate)}: {total(s.people_usd)}",
        "Retraining": f"{times(s.retraining_per_year)} a year",
        "Compute": f"{machine.name}, {rate(machine.usd)} an hour" if machine else "no price for this device",
    }
    for vendor in s.vendors:
        parts = [f"training {money(vendor.training.least_purchase)} at least"]
        if vendor.per_call:
            parts.append(f"{money(vendor.per_call.usd)} for 1,000 images")
        if vendor.endpoint:
            hours = vendor.endpoint_hours_per_month
            parts.append(f"{rate(vendor.endpoint.usd)} an hour, kept ready {hours:g} h a month")
        rows[vendor.name] = "; ".join(parts)
    return Pairs.of(rows)


def _spent_table(facts: Facts) -> Table:
    cost, speed = facts.cost, facts.cost.speed
    study, recipe = (flops(work) if work else "not measured" for work in (cost.flops, cost.retrain_flops))

    def row(what: str, seconds: float | None, work: str, usd: float | None, runs: Sequence[str], most: str = "") -> Row:
        time = "not measured" if seconds is None else f"{most}{duration(seconds)}"
        price = "no price" if usd is None else f"{most}{money(usd)}"
        return Row.of(what, time, work, "not measured", price, Cell("", sources=run(*runs)))

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
            rows.append(row(f"1,000 predictions, {how}", 1000 / per_second, "none", usd, speed.runs, most))
    for run_id, http in facts.study.artifacts.http.items():
        for how, per_second in (
            (f"one a request, {http.clients} clients at once", http.per_second),
            (f"{http.batch} a request", http.per_second_batched),
        ):
            usd = None if cost.hourly is None else cost.hourly * 1000 / per_second / 3600
            rows.append(row(f"1,000 predictions over HTTP, {how}", 1000 / per_second, "none", usd, [run_id]))
    titles = ("", "Time", "Training compute", "Energy", "Compute cost", "Runs")
    return Table(titles, rows, numbers=range(1, 5), style="cards tight")


def _options_table(facts: Facts) -> Table:
    ours, months, rows = facts.building, facts.scenario.months, []
    for option in [*([ours] if ours else []), *vendors(facts.scenario)]:
        least = break_even(facts.cost, option.vendor, facts.scenario) if option.vendor else None
        volume = "none" if least is None else "any" if least == 0 else count(least)
        parts = (option.people, option.training, option.retraining * months, option.serving * months)
        sums = (total(usd) for usd in (*parts, option.total(months)))
        name, style = (option.name, "") if option.vendor else ("building", "ours")
        rows.append(Row.of(name, *sums, volume if ours and option.vendor else "", style=style))
    titles = ("", "People", "First training", "Retraining", "Labelling", "In all", "Break-even")
    return Table(titles, rows, numbers=range(1, 7), style="cards tight")


def _study(facts: Facts) -> CitedText:
    cost, scenario = facts.cost, facts.scenario
    if cost.seconds is None:
        text = "The duration of the study was not recorded, so building has no price yet."
        return CitedText(text, run(facts.run_id))
    about = "about " if cost.estimated else ""
    work = f" and {flops(cost.flops)} of training" if cost.flops else ""
    took = f"Building: the study took {about}{duration(cost.seconds)} of wall time{work}"
    energy = "Energy was not measured: nothing read a power meter"
    if cost.machine is None or cost.study_usd is None:
        return CitedText(f"{took}; {cost.missing}. {energy}.", run(facts.run_id))
    fleet = f"{cost.machines} x " if cost.machines > 1 else ""
    fast = f", assumed to be as fast as the {cost.processor} of the study" if cost.processor else ""
    people = f"{scenario.engineering_hours:g} h at {rate(scenario.hourly_rate)}"
    return CitedText(
        f"{took}, {money(cost.study_usd)} at {rate(cost.machine.usd)} an hour for {fleet}{cost.machine.name}{fast}. "
        f"People cost {total(scenario.people_usd)} ({people}), which the scenario assumes and nobody measured. "
        f"{energy}.",
        facts.cost_sources,
    )


def _retraining(facts: Facts) -> CitedText:
    cost, scenario = facts.cost, facts.scenario
    if cost.retrain_seconds is None:
        return CitedText("Retraining: no run of the recipe has finished, so it has no price yet.", run(facts.run_id))
    work = f" ({flops(cost.retrain_flops)})" if cost.retrain_flops else ""
    took = f"Retraining: one run of the {facts.subject}'s recipe takes {duration(cost.retrain_seconds)}{work}"
    if cost.retrain_usd is None:
        return CitedText(f"{took}; {cost.missing}.", run(*facts.subject_runs))
    theirs = "; ".join(f"{v.name} {money(v.training.least_purchase)}" for v in scenario.vendors)
    sources = (f"source/{v.training.key}" for v in scenario.vendors)
    return CitedText(
        f"{took}, {money(cost.retrain_usd)}; the least training that vendors sell: {theirs}. The hours that they would "
        f"need for this data are not published. The scenario retrains {times(scenario.retraining_per_year)} a year.",
        (*run(*facts.subject_runs), *cost.machine_sources, *sources, "source/scenario"),
    )


def _over_http(facts: Facts) -> str:
    """Return the latency over HTTP as a clause; nothing where it was not measured."""
    speeds = [*facts.study.artifacts.http.values()]
    if not speeds:
        return ""
    latency, p95 = duration(speeds[0].latency), duration(speeds[0].p95)
    return f"; over HTTP in {latency} (95 % within {p95}), of which reading JSON is a part"


def _serving(facts: Facts) -> CitedText:
    """1,000 predictions with the network, one by one and in large batches, against vendors' prices by the image."""
    cost, speed = facts.cost, facts.cost.speed
    if speed is None:
        return CitedText("Serving: no network was timed, so labelling has no price yet.", run(facts.run_id))
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
        return CitedText(f"{text}. Labelling has no price yet; {cost.missing}.", run(*speed.runs))
    most = "at most " if speed.bounded else ""
    text += (
        f". Compute paid by the second costs {most}{money(single)} for 1,000 images one by one and {most}"
        f"{money(large)} in batches. "
    )
    calls = {v.name: v.per_call for v in facts.scenario.vendors if v.per_call}
    prices = "; ".join(f"{name} {money(price.usd)}" for name, price in calls.items())
    text += f"Vendors priced by the image, for 1,000: {prices}." if calls else "No vendor is priced by the image."
    sources = (f"source/{price.key}" for price in calls.values())
    return CitedText(text, (*run(*speed.runs), *cost.machine_sources, *sources))


def _kept_on(facts: Facts) -> CitedText:
    """The cost of the latency bar: machines, and endpoints of vendors, that run all month."""
    cost, s = facts.cost, facts.scenario
    volume = f"{count(s.images_per_month)} images a month"
    if cost.month_usd is None or cost.speed is None or cost.machine is None:
        return CitedText("A month of labelling has no price yet.", ("source/scenario",))
    if s.latency_bar_ms is None:
        text = f"The scenario lets images wait: compute for {volume} is paid by the second, and no machine is kept on."
        return CitedText(text, ("source/scenario",))
    machines = machines_on(cost, s)
    month = machines * cost.machine.usd * HOURS_A_MONTH
    text = (
        f"The scenario wants an answer within {duration(s.latency_bar_ms / 1000)}, so {machines} "
        f"{plural(machines, 'machine')} kept on for {volume}: {total(month)} a month, used or idle."
    )
    ends = {v.name: (v.endpoint, v.endpoint.usd * v.endpoint_hours_per_month) for v in s.vendors if v.endpoint}
    if ends:
        idle = "; ".join(f"{name} {total(usd)}" for name, (_, usd) in ends.items())
        text += f" Endpoints that bill while idle, a month: {idle}. Their latency is not published."
    sources = (f"source/{price.key}" for price, _ in ends.values())
    return CitedText(text, (*run(*cost.speed.runs), *cost.machine_sources, "source/scenario", *sources))


def _horizon(facts: Facts) -> list[CitedText]:
    """The totals over the horizon, and when building has paid back what it costs at the start."""
    scenario, horizon = facts.scenario, f"Over {years(facts.scenario.horizon_years)}"
    ours, months, bought = facts.building, scenario.months, vendors(scenario)
    totals = "; ".join(f"{option.name} {total(option.total(months))}" for option in bought)
    if ours is None:
        text = f"{horizon}: {totals}. The cost of building and its break-even are not known yet: {facts.cost.missing}."
        return [CitedText(text, ("source/scenario", *_sources(bought)))]
    parts = (
        f"people {total(ours.people)}, the study {total(ours.training)}, retraining "
        f"{total(ours.retraining * months)}, serving {total(ours.serving * months)}"
    )
    text = f"{horizon} building costs {total(ours.total(months))}: {parts}. Buying: {totals}."
    return [CitedText(text, (*facts.cost_sources, *_sources(bought))), _payback(facts, ours)]


def _break_even(facts: Facts, option: Option) -> CitedText:
    assert option.vendor
    volume = break_even(facts.cost, option.vendor, facts.scenario)
    name, over = f"Break-even with {option.name}", f"over {years(facts.scenario.horizon_years)}"
    if volume is None:
        text = f"{name}: building costs more at any volume {over}."
    elif volume == 0:
        text = f"{name}: building costs no more at any volume that one machine can label, {over}."
    else:
        share = percent(facts.scenario.images_per_month / volume, 0)
        text = f"{name}: {count(volume)} images a month; above, building costs less {over}. "
        text += f"The scenario has {share} of that."
    return CitedText(text, (*facts.cost_sources, *option.sources))


def _retirements(facts: Facts, options: Sequence[Option]) -> Iterator[CitedText]:
    """Vendors of the scenario that end their service within the horizon."""
    end = facts.as_of + datetime.timedelta(days=365.25 * facts.scenario.horizon_years)
    for vendor in (option.vendor for option in options if option.vendor):
        retired = {price.key: price.retirement for price in vendor.prices if price.retirement}
        date = min(retired.values(), default=None)
        if date is not None and date < end:
            yield CitedText(
                f"{vendor.name} ends its service on {date.isoformat()}, within the horizon: its price stands for a "
                "similar service that one would have to move to.",
                tuple(f"source/{key}" for key in retired),
            )


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
    cost, study, machine = facts.cost, run(facts.run_id), facts.cost.machine_sources
    recipe = run(*facts.subject_runs)
    yield Number("cost.study.seconds", cost.seconds, "seconds", study)
    yield Number("cost.study.flops", cost.flops, "FLOPs", study)
    yield Number("cost.study.energy", None, "joules (not measured)", study)
    yield Number("cost.study.usd", cost.study_usd, "USD", (*study, *machine))
    yield Number("cost.study.machines", cost.machines, "machines", study)
    yield Number("cost.retraining.seconds", cost.retrain_seconds, "seconds", recipe)
    yield Number("cost.retraining.flops", cost.retrain_flops, "FLOPs", recipe)
    yield Number("cost.retraining.usd", cost.retrain_usd, "USD", (*recipe, *machine))
    yield Number("cost.training.images_per_second", cost.training_per_second, "images a second", recipe)
    if speed := cost.speed:
        timed, bound = run(*speed.runs), " (bound)" if speed.bounded else ""
        yield Number("serving.latency", speed.latency, f"seconds{bound}", timed)
        yield Number("serving.latency95", speed.p95, "seconds", timed)
        yield Number("serving.batch", speed.batch, "images", timed)
        yield Number("serving.images_per_second", speed.per_second_batched, f"images a second{bound}", timed)
        yield Number("serving.per_1000_single", cost.per_1000_single_usd, f"USD{bound}", (*timed, *machine))
        yield Number("serving.per_1000_batched", cost.per_1000_usd, f"USD{bound}", (*timed, *machine))
        for run_id, http in facts.study.artifacts.http.items():
            yield Number("serving.http_latency", http.latency, "seconds", run(run_id))
            yield Number("serving.http_latency95", http.p95, "seconds", run(run_id))
            yield Number("serving.http_per_second", http.per_second, "requests a second", run(run_id))
            yield Number("serving.http_images_per_second", http.per_second_batched, "images a second", run(run_id))
        yield Number("serving.machine_month", cost.month_usd, "USD", machine)


def _option_numbers(facts: Facts, options: Sequence[Option]) -> Iterator[Number]:
    ours, scenario, months = facts.building, facts.scenario, facts.scenario.months
    for option in options:
        vendor = option.vendor
        name = f"buy.{vendor.training.key.removesuffix('-training')}" if vendor else "build"
        sources = (*option.sources, "source/scenario") if vendor else facts.cost_sources
        paid = {"people": "USD", "training": "USD", "once": "USD", "month": "USD a month"}
        yield from numbers_of(name, option, sources, **paid)
        over = "USD over the horizon"
        yield Number(f"{name}.retraining", option.retraining * months, over, sources)
        yield Number(f"{name}.serving_month", option.serving, "USD a month", sources)
        yield Number(f"{name}.serving", option.serving * months, over, sources)
        yield Number(f"{name}.total", option.total(months), over, sources)
        if vendor and ours:
            volume = break_even(facts.cost, vendor, scenario)
            share = scenario.images_per_month / volume if volume else None
            both = (*facts.cost_sources, *sources)
            yield Number(f"{name}.break_even", volume, "images a month", both)
            yield Number(f"{name}.scenario_over_break_even", share, "share", both)
    if ours:
        yield Number("payback.months", payback_months(ours, facts.cheapest), "months", facts.cost_sources)
        yield Number("build.people_share", ours.people / ours.total(months), "share", facts.cost_sources)


def _assumed_numbers(facts: Facts) -> Iterator[Number]:
    """The numbers of the scenario, and the published prices."""
    scenario, machine = facts.scenario, facts.cost.machine
    for field in fields(scenario):
        value = getattr(scenario, field.name)
        if isinstance(value, int | float) or (value is None and field.name != "compute"):
            yield Number(f"scenario.{field.name}", value, "as in the file", ("source/scenario",))
    yield Number("scenario.people", scenario.people_usd, "USD", ("source/scenario",))
    for price in facts.published.prices:
        unit = "USD for 1,000 images" if price.role == "prediction" else "USD an hour"
        yield Number(f"price.{price.key}", price.usd, unit, (f"source/{price.key}",))
        if price.role == "training":
            yield Number(f"price.{price.key}.least_purchase", price.least_purchase, "USD", (f"source/{price.key}",))
    if machine and machine not in facts.published.prices:
        yield Number("price.scenario-compute", machine.usd, "USD an hour", ("source/scenario",))
