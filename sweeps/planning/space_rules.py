"""Entries of a space file, and the rules that they must keep."""

from __future__ import annotations

import functools
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from optuna.distributions import CategoricalDistribution
from pydantic import Field
from pydantic.dataclasses import dataclass

from cifar_core.errors import suggest_name
from cifar_core.models import MODELS
from cifar_core.recipe import FIELD_TYPES, LINKED_FIELDS, Recipe, RecipeError, field_fault, widen
from cifar_core.recipes import NAMES, is_path
from sweeps.planning.search_space import MULTIPLES, SearchSpace
from sweeps.validation import STRICT, Text

SYSTEMS_GROUP = "systems"  # the five published systems, among the names of recipes
SET_BY_SWEEP = frozenset({"seed", "epochs", "val_fraction", "tta", "deterministic", "keep_best"})
KNOWN = (*(name for name in FIELD_TYPES if name not in SET_BY_SWEEP), *MULTIPLES)
MOST_COMBINATIONS = 10_000


@dataclass(config=STRICT, frozen=True, kw_only=True, slots=True)
class ParameterEntry:
    """A table [parameters.NAME]: choices, or a range from low to high."""

    choices: list[Any] | None = None
    low: Any = None
    high: Any = None
    step: Any = None
    log: bool = False
    start: Any = None
    when: dict[str, Any] = Field(default_factory=dict)


@dataclass(config=STRICT, frozen=True, kw_only=True, slots=True)
class SpaceEntries:
    """A space file; in `hold`, `when` stands among the fields that are held."""

    parameters: dict[str, ParameterEntry]
    description: Text = "a space of your own"
    enqueue: list[str] = Field(default_factory=list)
    hold: list[dict[str, Any]] = Field(default_factory=list)


def typed(name: str, value: Any) -> Any:
    """Return a value of a parameter as its field has it: an int as a float where the field is one."""
    return widen(MULTIPLES.get(name, name), value)


def listed(name: str, values: Any) -> list[Any]:
    """Return the values that a condition allows, which gives one value or a list."""
    return [typed(name, value) for value in (values if isinstance(values, list) else [values])]


def entry_faults(entries: SpaceEntries) -> Iterator[str]:
    """Yield the rules that single entries break."""
    parameters = entries.parameters
    if not parameters:
        yield "parameters must name at least one"
    for number, (name, entry) in enumerate(parameters.items()):
        place = f"parameters.{name}"
        if (fault := _name_fault(name)) is not None:
            yield f"parameters: {fault}"
            continue
        yield from _range_faults(place, name, entry) if entry.choices is None else _choice_faults(place, name, entry)
        yield from _when_faults(f"{place}.when", entry.when, parameters, list(parameters)[:number])
    for number, hold in enumerate(entries.hold):
        yield from _hold_faults(f"hold[{number}]", hold, parameters)
    for name in entries.enqueue:
        if name not in (SYSTEMS_GROUP, *NAMES) and not is_path(name):
            known = sorted([SYSTEMS_GROUP, *NAMES])
            yield f"enqueue: unknown recipe {name!r}: {_suggestion(name, known, 'the recipes')}"


def space_faults(space: SearchSpace) -> Iterator[str]:
    """Yield the rules that entries break together: a start for all parameters, and only valid recipes."""
    lacking = dict.fromkeys(name for start in space.starts for name, value in start.items() if value is None)
    if lacking:
        yield f"each parameter but model must have a start, or none may, but there is none for {', '.join(lacking)}"
    conditions = [*(p.when for p in space.parameters.values()), *(hold.when for hold in space.holds)]
    judged = {*itertools.chain.from_iterable(conditions), *LINKED_FIELDS}
    names = [name for name in space.parameters if name in judged and space.choices(name)]
    points = list(itertools.islice(space.combinations(names), MOST_COMBINATIONS + 1))
    if len(points) > MOST_COMBINATIONS:
        yield f"{', '.join(names)} must have at most {MOST_COMBINATIONS:,} combinations of values, but have more"
        return
    found: dict[str, dict[str, Any]] = {}  # the first combination with each fault
    for point in points:
        for fault in _combination_faults(space, point):
            found.setdefault(fault, point)
    for fault, point in found.items():
        where = ", ".join(f"{name} = {_toml(value)}" for name, value in point.items())
        yield f"with {where}: {fault}" if where else fault


def _combination_faults(space: SearchSpace, point: Mapping[str, Any]) -> Iterator[str]:
    """Yield the faults of recipes with these values, at the lower and the upper ends of all ranges."""
    for end in (0, -1):
        extreme = space.point_of(functools.partial(_value, space, point, end))
        held = space.held(extreme)
        faults = [f"{name} is both held and a parameter" for name in extreme if name in held]
        faults += [
            f"{multiple} and {name} exclude each other"
            for multiple, name in MULTIPLES.items()
            if {multiple, name} <= {*extreme, *held}
        ]
        yield from faults
        try:
            space.recipe(extreme, Recipe())
        except RecipeError as error:
            yield str(error)


def _value(space: SearchSpace, point: Mapping[str, Any], end: int, name: str) -> Any:
    """Return the value at a point, or an end (0 or -1) of a parameter that the point leaves open."""
    if name in point:
        return point[name]
    drawn = space.parameters[name].distribution
    ends: Any = drawn.choices if isinstance(drawn, CategoricalDistribution) else (drawn.low, drawn.high)
    return sorted(ends)[end]


def _name_fault(name: str) -> str | None:
    if name in SET_BY_SWEEP:
        return f"{name} is set by the sweep itself"
    return None if name in KNOWN else f"unknown parameter {name!r}: {_suggestion(name, KNOWN, 'the parameters')}"


def _value_fault(name: str, value: Any) -> str | None:
    """Return the rule that a value of a parameter breaks, if it breaks one."""
    field, value = MULTIPLES.get(name, name), typed(name, value)
    if field == "learning_rate" and type(value) is not float:
        return f"{name} must be a number, but got {value!r}"
    if name == "model" and isinstance(value, str) and value not in MODELS:
        return f"unknown model {value!r}: {_suggestion(value, sorted(MODELS), 'the models')}"
    fault = field_fault(field, value)
    return fault if fault is None else fault.replace(field, name)


def _choice_faults(place: str, name: str, entry: ParameterEntry) -> Iterator[str]:
    choices = [typed(name, choice) for choice in entry.choices or []]
    both = [key for key in ("low", "high", "step", "log") if getattr(entry, key) not in (None, False)]
    if both:
        yield f"{place} must have either choices or a range, but has choices and {', '.join(both)}"
    faults = [fault for choice in choices if (fault := _value_fault(name, choice)) is not None]
    yield from (f"{place}.choices: {fault}" for fault in faults)
    if faults:
        return
    if not choices:
        yield f"{place}.choices must not be empty"
    elif len(set(choices)) < len(choices):
        yield f"{place}.choices must differ, but got {_toml(choices)}"
    if entry.start is not None and not _among(typed(name, entry.start), choices):
        yield f"{place}.start must be one of the choices {_toml(choices)}, but got {_toml(entry.start)}"


def _range_faults(place: str, name: str, entry: ParameterEntry) -> Iterator[str]:
    kind = FIELD_TYPES[MULTIPLES.get(name, name)]
    if kind not in (int, float):
        yield f"{place} must have choices, because {name} is of type {kind.__name__}"
        return
    missing = [key for key in ("low", "high") if getattr(entry, key) is None]
    if missing:
        yield f"{place} must have choices, or low and high, but has no {' and no '.join(missing)}"
        return
    faults = [
        f"{place}.{key}: {fault}"
        for key in ("low", "high", "start")
        if (given := getattr(entry, key)) is not None and (fault := _value_fault(name, given)) is not None
    ]
    low, high, step = (typed(name, given) for given in (entry.low, entry.high, entry.step))
    if step is not None and not (type(step) is kind and 0 < step < math.inf):
        number = "whole number" if kind is int else "number"
        faults.append(f"{place}.step must be a {number} above 0, but got {_toml(entry.step)}")
    yield from faults
    if faults:
        return
    if low >= high:
        yield f"{place}.low must be less than high, but got low = {low} and high = {high}"
        return
    if entry.log and low <= 0:
        yield f"{place}.low must be above 0 where log = true, but got {low}"
    if entry.log and step is not None:
        yield f"{place} must not have both log and step"
    elif step is not None and not _divides(step, low, high):
        yield f"{place}.step must divide the range, but got step = {step} from {low} to {high}"
    if entry.start is None:
        return
    if not low <= entry.start <= high:
        yield f"{place}.start must lie between {low} and {high}, but got {entry.start}"
    elif step is not None and not _divides(step, low, typed(name, entry.start)):
        yield f"{place}.start must be low plus a multiple of step, but got {entry.start}"


def _when_faults(
    place: str, when: Mapping[str, Any], parameters: Mapping[str, ParameterEntry], earlier: Sequence[str]
) -> Iterator[str]:
    for name, values in when.items():
        if name not in parameters:
            yield f"{place}: unknown parameter {name!r}: {_suggestion(name, earlier, 'the earlier ones')}"
        elif name not in earlier:
            yield f"{place}.{name} must be a parameter that stands earlier in the file"
        elif name not in KNOWN:
            continue  # its own entry reports that
        elif (choices := parameters[name].choices) is None:
            yield f"{place}.{name} must be a parameter with choices"
        elif values == []:
            yield f"{place}.{name} must have at least one value"
        else:
            known = [typed(name, choice) for choice in choices]
            for value in listed(name, values):
                if not _among(value, known):
                    yield f"{place}.{name} must be one of the choices {_toml(known)}, but got {_toml(value)}"


def _hold_faults(place: str, hold: Mapping[str, Any], parameters: Mapping[str, ParameterEntry]) -> Iterator[str]:
    when = hold.get("when", {})
    if not isinstance(when, dict):
        yield f"{place}.when must be a table, but got {_toml(when)}"
    else:
        yield from _when_faults(f"{place}.when", when, parameters, list(parameters))
    if not hold.keys() - {"when"}:
        yield f"{place} must hold at least one field"
    for name, value in hold.items():
        if name != "when" and (fault := _name_fault(name) or _value_fault(name, value)) is not None:
            yield f"{place}: {fault}"


def _among(value: Any, choices: Sequence[Any]) -> bool:
    """Return true if a value is one of these; unlike in Python, true is not 1."""
    return any(type(choice) is type(value) and choice == value for choice in choices)


def _divides(step: float, low: float, high: float) -> bool:
    try:
        return (Decimal(str(high)) - Decimal(str(low))) % Decimal(str(step)) == 0
    except InvalidOperation:  # more steps than decimals can count
        return False


def _suggestion(name: str, known: Sequence[str], what: str) -> str:
    return suggest_name(name, known, f"{what} are {', '.join(known) or 'none'}")


def _toml(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
