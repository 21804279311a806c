"""The scenario of a report: volume, bars, horizon, people, and the ways that building is compared with.

A scenario is a TOML file such as `data/scenario.toml`, which explains each field. It names prices and accuracies by
their keys in `data/published.toml`.
"""

from __future__ import annotations

import reprlib
import unicodedata
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo
from pydantic.dataclasses import dataclass

from experiments.reading.published import Accuracy, ByImage, ByMachine, Dated, Price, Published, Tariff
from sweeps.validation import STRICT, NonNegative, Positive, Text, read_toml
from sweeps.words import did_you_mean

DEFAULT_SCENARIO = Path(__file__).resolve().parents[1] / "data" / "scenario.toml"
HOURS_A_MONTH = 730.0  # 365 days / 12
MILLION = 1e6
_LONGEST_NAME = 80  # letters, as names stand in figures and commands
_UNPRINTABLE = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")  # categories of Unicode
_SMALLEST, _LARGEST = 1e-15, 1e15  # numbers in a file, so that products and quotients of several are finite

_ROLES: Mapping[str, tuple[str, ...]] = {
    "training": ("training",),
    "per_call": ("prediction",),
    "endpoint": ("endpoint",),
    "tokens": ("token",),
    "batch": ("prediction", "endpoint", "token"),
    "storage": ("storage",),
    "compute": ("compute",),
}


def look_up_price(value: Any, info: ValidationInfo) -> Any:
    """Replace the key of a price by the price, and a number by a price for the scenario's own machine."""
    field, context = str(info.field_name), info.context or {}
    if value is None or isinstance(value, Price):
        return value
    if field == "compute" and type(value) in (int, float) and 0 < value <= _LARGEST:
        return Price(
            key="scenario-compute", name="the scenario's machine", role="compute", usd=value, units=None,
            source=context["file"], date="", assumed=True,
        )  # fmt: skip
    if not isinstance(value, str):
        kind = f"the key of a price or a number in (0, {_LARGEST:g}]" if field == "compute" else "the key of a price"
        raise ValueError(f"must be {kind}, but got {value!r}")
    prices: Mapping[str, Price] = context["prices"]
    roles, any_classes = _ROLES[field], field in ("compute", "storage")
    if value not in prices:
        fitting = [key for key, price in prices.items() if price.role in roles and (price.custom or any_classes)]
        raise ValueError(f"must be a key of published.toml, but got {value!r}{did_you_mean(value, fitting)}")
    price = prices[value]
    if price.role not in roles:
        raise ValueError(f"must be the key of a {' or '.join(roles)} price, but {value!r} is one of {price.role}")
    if not price.custom and not any_classes:
        raise ValueError(f"must be the price of a service that answers with these classes, but {value!r} has its own")
    return price


def _look_up_accuracy(value: Any, info: ValidationInfo) -> Any:
    if value is None or isinstance(value, Accuracy):
        return value
    accuracies: Mapping[str, Accuracy] = (info.context or {})["accuracies"]
    if not isinstance(value, str) or value not in accuracies:
        raise ValueError(f"must be a key of published.toml, but got {value!r}{did_you_mean(str(value), [*accuracies])}")
    return accuracies[value]


def _within(least: float, most: float) -> AfterValidator:
    """Return a validator of numbers other than 0 in a file; the sensitivity goes beyond."""

    def check(value: float, info: ValidationInfo) -> float:
        if info.context and value and not least <= value <= most:
            rule = f"at most {most:g}" if value > most else f"at least {least:g}"
            raise ValueError(f"must be {rule}, but got {value:g}")
        return value

    return AfterValidator(check)


def _check_name(name: str) -> str:
    if not any(map(str.isalnum, name)):
        raise ValueError(f"must have a letter or a digit, but got {name!r}")
    breaks = any(unicodedata.category(letter) in _UNPRINTABLE for letter in name)
    if breaks or len(name) > _LONGEST_NAME:
        raise ValueError(f"must be at most {_LONGEST_NAME} letters that can be printed, but got {reprlib.repr(name)}")
    return name


def _check_flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, but got {reprlib.repr(value)}")
    return value


_Name = Annotated[Text, AfterValidator(_check_name)]
_Positive = Annotated[Positive, _within(_SMALLEST, _LARGEST)]
_NonNegative = Annotated[NonNegative, _within(_SMALLEST, _LARGEST)]
OptionalPrice = Annotated[Price | None, BeforeValidator(look_up_price)]
_Published = Annotated[Accuracy, BeforeValidator(_look_up_accuracy)]
_OptionalPublished = Annotated[Accuracy | None, BeforeValidator(_look_up_accuracy)]


@dataclass(config=STRICT, frozen=True, kw_only=True, slots=True)
class Vendor:
    """A service that labels images with the classes that it is given, or trained on; see `data/scenario.toml`."""

    name: _Name
    training: OptionalPrice = None  # an hour of training; None: the service is not trained
    per_call: OptionalPrice = None  # 1,000 predictions
    endpoint: OptionalPrice = None  # an hour of a model that is kept ready, used or idle
    endpoint_hours_per_month: Annotated[float, Field(gt=0, le=HOURS_A_MONTH)] = HOURS_A_MONTH
    images_per_second: _Positive = 5.0  # capacity of one endpoint, or of one node of a batch
    tokens: OptionalPrice = None  # a million tokens
    image_tokens: Annotated[int, Field(ge=0), _within(1, _LARGEST)] = 0  # tokens of one image
    prompt_tokens: _NonNegative = 60
    answer_tokens: _NonNegative = 5
    batch: OptionalPrice = None  # in place of the others where no latency bar is set
    storage: OptionalPrice = None  # 1,000 stored images, a month
    stored_images: _NonNegative | None = None  # None: those that the study trained and validated with
    integration_hours: _NonNegative = 0.0  # hours of people, once
    migration_hours: _NonNegative = 0.0  # hours of people for each forced migration
    migrations_per_year: _NonNegative = 0.0
    accuracy: _OptionalPublished = None  # None: not published
    p95_ms: _Positive | None = None  # time within which 95 % of the answers come; None if unknown

    def __post_init__(self) -> None:
        if self.per_call is None and self.endpoint is None and self.tokens is None:
            raise ValueError("per_call, endpoint or tokens must be given, but none is")
        paid_by_token = self.tokens or (self.batch is not None and self.batch.role == "token")
        if paid_by_token and not self.image_tokens:
            raise ValueError("image_tokens must be greater than 0 with a price by the token, but got 0")

    @property
    def prices(self) -> tuple[Price, ...]:
        every = (self.training, self.per_call, self.endpoint, self.tokens, self.batch, self.storage)
        return tuple(p for p in every if p is not None)

    def images_stored(self, images: float) -> float:
        """Return how many images it stores, of a study that trained and validated with `images`."""
        return images if self.stored_images is None else self.stored_images

    def paid(self, *, waits: bool) -> tuple[Price, ...]:
        """Return the prices of what is bought; `waits` is as in `tariffs`."""
        others = (price for price in (self.training, self.storage) if price is not None)
        return (*others, *self.labelling(waits=waits))

    def labelling(self, *, waits: bool) -> tuple[Price, ...]:
        """Return the prices of labelling, which add up; `waits` is as in `tariffs`."""
        if waits and self.batch is not None:
            return (self.batch,)
        return tuple(price for price in (self.per_call, self.endpoint, self.tokens) if price is not None)

    def tariffs(self, *, waits: bool) -> tuple[Tariff, ...]:
        """The prices of labelling, which add up.

        Args:
            waits: True if no latency bar is set, so that images can be labelled in batches.
        """
        in_batches = waits and self.batch is not None
        return tuple(self._tariff(price, in_batches=in_batches) for price in self.labelling(waits=waits))

    def serving(self, images: float, *, waits: bool) -> float:
        """US dollars for labelling so many images in a month; see `tariffs`."""
        return sum(tariff.month(images) for tariff in self.tariffs(waits=waits))

    def _tariff(self, price: Price, *, in_batches: bool) -> Tariff:
        if price.role == "prediction":
            return price.tariff
        if price.role == "token":
            asked = self.image_tokens + self.prompt_tokens
            return ByImage(((0.0, asked * price.usd + self.answer_tokens * price.usd_output),), MILLION)
        an_hour = self.images_per_second * 3600
        if in_batches:
            return ByImage(((0.0, price.usd),), an_hour)
        return ByMachine(an_hour * self.endpoint_hours_per_month, price.usd * self.endpoint_hours_per_month)


@dataclass(config=STRICT, frozen=True, kw_only=True, slots=True)
class Download:
    """A published network to adapt, test and serve oneself."""

    name: _Name
    accuracy: _Published
    hours: _NonNegative  # hours of people to adapt and to test it


@dataclass(config=STRICT, frozen=True, kw_only=True, slots=True)
class _Content:
    """The content of a scenario file."""

    images_per_month: _Positive
    accuracy_bar: Annotated[float, Field(gt=0, lt=1)] = 0.70  # share of test images
    latency_bar_ms: _Positive | None = None  # None: images can wait, and compute is paid by the second
    data_stays_in_house: Annotated[bool, BeforeValidator(_check_flag)] = False  # no service may see the images
    horizon_years: Annotated[Positive, _within(_SMALLEST, 100)]
    engineering_hours: _NonNegative  # to build, once
    maintenance_hours_per_year: _NonNegative = 0.0  # hours of people for a network that one serves oneself
    hourly_rate: _NonNegative
    retraining_per_year: _NonNegative
    usd_per_label: _NonNegative = 0.0  # price of the label of a training image
    labels_at_hand: _NonNegative | None = None  # labels that need not be bought; None: all that the study had
    compute: OptionalPrice = None  # None: the machine that published.toml marks for the study's device
    vendors: Annotated[tuple[Vendor, ...], Field(alias="vendor")] = ()
    downloads: Annotated[tuple[Download, ...], Field(alias="download")] = ()

    def __post_init__(self) -> None:
        if not self.vendors:
            raise ValueError("at least one [[vendor]] must be given, but none is")
        slugs = ["building", *map(slug, self.names)]
        if wrong := [name for name in self.names if slugs.count(slug(name)) > 1]:
            alike = ", ".join(repr(name) for name in wrong if slug(name) == slug(wrong[0]))
            raise ValueError(f"names of vendors and downloads must differ, and none be 'building', but got {alike}")
        for vendor in self.vendors:
            hours = vendor.endpoint_hours_per_month
            if vendor.endpoint and self.latency_bar_ms is not None and hours < HOURS_A_MONTH:
                raise ValueError(
                    f"endpoint_hours_per_month must be {HOURS_A_MONTH:g} with a latency bar, as images come all month, "
                    f"but that of {vendor.name!r} is {hours:g}"
                )

    @property
    def names(self) -> tuple[str, ...]:
        """The names of vendors and downloads."""
        return (*(vendor.name for vendor in self.vendors), *(download.name for download in self.downloads))


@dataclass(config=STRICT, frozen=True, kw_only=True, slots=True)
class Scenario(_Content):
    """The assumptions behind the decision; money in US dollars."""

    file: str = ""  # name of the file that the scenario was read from
    is_example: bool = False  # it is the shipped one

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

    def labels_usd(self, images: float) -> float:
        """Cost, once, of the labels that have to be bought for so many images to train with."""
        return 0.0 if self.labels_at_hand is None else self.usd_per_label * max(0.0, images - self.labels_at_hand)

    @property
    def entry(self) -> Dated:
        """The scenario as a source to cite."""
        return Dated(name="The scenario", source=self.file, date="", assumed=True)


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
    content = read_toml(path, _Content, context)
    values = {field.name: getattr(content, field.name) for field in fields(content)}
    return Scenario(**values, file=path.name, is_example=path.resolve() == DEFAULT_SCENARIO)


def slug(name: str) -> str:
    """A name for `report.json` and for files, of letters and digits of any script.

    >>> slug("Google Vertex AutoML (batch)"), slug("通义千问 2"), slug("Café")
    ('google_vertex_automl_batch', '通义千问_2', 'café')
    """
    letters = unicodedata.normalize("NFC", name.lower())
    return "_".join("".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in letters).split())
