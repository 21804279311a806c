"""The assumptions of a scenario in words, with all their digits: scenarios that differ differ in words."""

from __future__ import annotations

from collections.abc import Iterator

from experiments.decision.facts import Facts
from experiments.pages.text import money, short_duration, times, total
from experiments.reading.published import rate
from experiments.reading.scenario import Scenario, Vendor


def stated_assumptions(facts: Facts) -> dict[str, str]:
    """The scenario in words, by subject."""
    s, machine = facts.scenario, facts.cost.machine
    waits = "none: images can wait, and compute is paid by the second"
    people = f"{s.engineering_hours:,.10g} h to build, {s.maintenance_hours_per_year:,.10g} h a year to maintain"
    rows = {
        "Images a month": f"{s.images_per_month:,.10g}" if s.images_per_month < 1e10 else f"{s.images_per_month:,.0f}",
        "Accuracy bar": f"{facts.bar.figure} of the test images",
        "Latency bar": waits if s.latency_bar_ms is None else short_duration(s.latency_bar_ms),
        "Data": "may not leave the house" if s.data_stays_in_house else "may be sent to services",
        "Horizon": _horizon(s.horizon_years),
        "People": f"{people}, at {rate(s.hourly_rate)} an hour: {total(s.people_usd)}",
        "Labels": _labels(s, facts.cost.labels),
        "Retraining": f"{times(s.retraining_per_year)} a year",
        "Compute": f"{machine.name}, {rate(machine.usd)} an hour" if machine else "no price for this device",
    }
    rows |= {vendor.name: "; ".join(_terms(vendor, facts)) for vendor in s.vendors}
    for download in s.downloads:
        published = f"; published at {download.accuracy.figure}" if facts.is_cifar10 else ""
        rows[download.name] = f"{download.hours:,.10g} h to adapt and test it{published}"
    return rows


def _horizon(years: float) -> str:
    """The horizon in years, or in months where it is shorter than one."""
    count, unit = (years, "year") if years >= 1 else (12 * years, "month")
    text = f"{round(count, 3):.10g}"  # a month is no finite decimal of a year
    return f"{text} {unit}" if text == "1" else f"{text} {unit}s"


def _labels(scenario: Scenario, images: int) -> str:
    """The labels to train with that are at hand, and those to buy."""
    price = f", {rate(scenario.usd_per_label)} each"
    if scenario.labels_at_hand is None:
        return f"all {images:,} of the study at hand" + ("; others cost" + price[1:] if scenario.usd_per_label else "")
    bought = max(0.0, images - scenario.labels_at_hand)
    return f"{scenario.labels_at_hand:,.10g} at hand, {bought:,.10g} to buy{price}"


def _terms(vendor: Vendor, facts: Facts) -> Iterator[str]:
    """Yield the scenario's assumptions about a vendor, in words."""
    if vendor.training:
        yield f"training {money(vendor.training.least_purchase)} at least"
    if facts.scenario.latency_bar_ms is None and vendor.batch:
        speed = f" for {vendor.images_per_second:,.10g} images a second" if vendor.batch.role == "endpoint" else ""
        yield f"batch {vendor.batch.figure}{speed}"
    else:
        if vendor.per_call:
            yield f"{money(vendor.per_call.usd)} for 1,000 images"
        if vendor.endpoint:
            fast = f"{rate(vendor.endpoint.usd)} an hour for {vendor.images_per_second:,.10g} images a second"
            yield f"{fast}, kept ready {vendor.endpoint_hours_per_month:.10g} h a month"
        if vendor.tokens:
            yield vendor.tokens.figure
    if any(price.role == "token" for price in vendor.labelling(waits=facts.scenario.latency_bar_ms is None)):
        asked = f"{vendor.image_tokens:,} tokens an image, {vendor.prompt_tokens:,.10g} of prompt"
        yield f"{asked}, {vendor.answer_tokens:,.10g} of answer"
    if vendor.storage or (vendor.training and vendor.stored_images is not None):
        price = f", {vendor.storage.figure}" if vendor.storage else ""
        yield f"{vendor.images_stored(facts.cost.labels):,.10g} images stored{price}"
    if vendor.integration_hours or vendor.migration_hours * vendor.migrations_per_year:
        text = f"{vendor.integration_hours:,.10g} h to integrate"
        if vendor.migration_hours * vendor.migrations_per_year:
            text += f", {vendor.migration_hours:,.10g} h for a migration, {times(vendor.migrations_per_year)} a year"
        yield text
    if vendor.accuracy and facts.is_cifar10:
        yield f"published at {vendor.accuracy.figure}"
    if vendor.p95_ms is not None:
        yield f"answers within {short_duration(vendor.p95_ms)} in 95 % of cases"
