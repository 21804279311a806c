"""The scenario of a report: volume, bars, horizon, people, and the ways that building is compared with.

A scenario is a TOML file such as `data/scenario.toml`, which explains each field.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from experiments.reading.prices import Assumed
from experiments.reading.published import Published
from experiments.reading.vendor import HOURS_A_MONTH, Download, OptionalPrice, Vendor, slug
from sweeps.validation import STRICT, NonNegative, Positive, read_toml

DEFAULT_SCENARIO = Path(__file__).resolve().parents[1] / "data" / "scenario.toml"


@dataclass(config=STRICT, frozen=True, kw_only=True, slots=True)
class Scenario:
    """The assumptions behind the decision; money in US dollars."""

    images_per_month: Positive
    accuracy_bar: Annotated[float, Field(gt=0, lt=1)] = 0.70  # share of test images
    latency_bar_ms: Positive | None = None  # None: images can wait, and compute is paid by the second
    data_stays_in_house: bool = False  # no service may see the images
    horizon_years: Annotated[float, Field(gt=0, le=100)]
    engineering_hours: NonNegative  # to build, once
    maintenance_hours_per_year: NonNegative = 0.0  # of what one serves oneself: built or adapted
    hourly_rate: NonNegative
    retraining_per_year: NonNegative
    compute: OptionalPrice = None  # None: the machine that published.toml marks for the study's device
    vendors: Annotated[tuple[Vendor, ...], Field(alias="vendor", min_length=1)]
    downloads: Annotated[tuple[Download, ...], Field(alias="download")] = ()
    file: str = ""  # name of the file that the scenario was read from

    def __post_init__(self) -> None:
        names = [slug(name) for name in (*(v.name for v in self.vendors), *(d.name for d in self.downloads))]
        if twice := sorted({name for name in names if names.count(name) > 1 or name == "build"}):
            raise ValueError(f"names of vendors and downloads must differ, and none be 'build', but got: {twice[0]}")
        for vendor in self.vendors:
            hours = vendor.endpoint_hours_per_month
            if vendor.endpoint and self.latency_bar_ms is not None and hours < HOURS_A_MONTH:
                raise ValueError(
                    f"endpoint_hours_per_month must be {HOURS_A_MONTH:g} with a latency bar, as images come all month, "
                    f"but that of {vendor.name!r} is {hours:g}"
                )

    @property
    def months(self) -> float:
        return 12 * self.horizon_years

    @property
    def people_usd(self) -> float:
        """Cost over the horizon for the people who build and maintain."""
        return (self.engineering_hours + self.maintenance_hours_per_year * self.horizon_years) * self.hourly_rate

    @property
    def upkeep_usd(self) -> float:
        """Cost a month for the people who maintain what one serves oneself."""
        return self.maintenance_hours_per_year * self.hourly_rate / 12

    @property
    def entry(self) -> Assumed:
        """The scenario as a source to cite."""
        return Assumed(source=self.file)


def load_scenario(published: Published, path: Path = DEFAULT_SCENARIO) -> Scenario:
    """Load a scenario, whose keys are those of `published`.

    Raises:
        InvalidFileError: the file is not readable TOML, or breaks a rule.
    """
    context: dict[str, Any] = {
        "file": path.name,
        "prices": {price.key: price for price in published.prices},
        "accuracies": {accuracy.key: accuracy for accuracy in published.accuracies},
    }
    return replace(read_toml(path, Scenario, context), file=path.name)
