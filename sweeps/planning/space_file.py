"""Search spaces by name (the TOML files of sweeps/spaces) or by path."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from cifar_core.errors import UserError, suggest_name
from cifar_core.files import read_small_text
from cifar_core.recipes import is_path
from sweeps.planning.search_space import Condition, Distribution, Hold, Parameter, SearchSpace
from sweeps.planning.space_rules import ParameterEntry, SpaceEntries, entry_faults, listed, space_faults, typed
from sweeps.validation import InvalidFileError, parse_toml
from sweeps.words import shortened

FOLDER = Path(__file__).resolve().parents[1] / "spaces"


def read_space(name: str) -> SearchSpace:
    """Return a built-in space by name, or read a file by path.

    Raises:
        UserError: unknown name, a file that cannot be read, is not TOML or breaks a rule.
    """
    if is_path(name):
        if not name.isprintable():
            raise UserError(f"a space file's name must have no line breaks and control characters, but got {name!r}")
        return _read(Path(name))
    if name not in SPACES:
        spaces_are = f"the spaces are {', '.join(SPACES)}; a file's name ends in .toml"
        raise UserError(f"unknown space {name!r}: {suggest_name(name, list(SPACES), spaces_are)}")
    return SPACES[name]


def parse_space(path: Path, text: str) -> SearchSpace:
    """Return the space that the text of a file describes.

    Args:
        path: path of the file; its stem names the space, and paths of recipes in it begin at its folder.

    Raises:
        InvalidFileError: it is not TOML, or breaks a rule.
    """
    entries = parse_toml(str(path), text, SpaceEntries)
    _refuse(path, entry_faults(entries))
    space = SearchSpace(
        name=path.stem,
        description=entries.description,
        parameters={name: _parameter(name, entry) for name, entry in entries.parameters.items()},
        holds=tuple(map(_hold, entries.hold)),
        enqueue=tuple(str(path.parent / name) if is_path(name) else name for name in entries.enqueue),
        text=text,
    )
    _refuse(path, space_faults(space))
    return space


def _read(path: Path) -> SearchSpace:
    return parse_space(path, read_small_text(path, "space"))


def _refuse(path: Path, faults: Iterable[str]) -> None:
    found = list(faults)
    if found:
        raise InvalidFileError(" ".join(f"{path}: {shortened(found, '; ')}".split()))


def _parameter(name: str, entry: ParameterEntry) -> Parameter:
    return Parameter(_distribution(name, entry), _condition(entry.when), typed(name, entry.start))


def _distribution(name: str, entry: ParameterEntry) -> Distribution:
    if entry.choices is not None:
        return CategoricalDistribution([typed(name, choice) for choice in entry.choices])
    low, high, step = (typed(name, value) for value in (entry.low, entry.high, entry.step))
    if isinstance(low, int):
        return IntDistribution(low, high, log=entry.log, step=1 if step is None else step)
    return FloatDistribution(low, high, log=entry.log, step=step)


def _hold(entry: Mapping[str, Any]) -> Hold:
    values = {name: typed(name, value) for name, value in entry.items() if name != "when"}
    return Hold(values, _condition(entry.get("when", {})))


def _condition(when: Mapping[str, Any]) -> Condition:
    return {name: tuple(listed(name, values)) for name, values in when.items()}


SPACES: Mapping[str, SearchSpace] = {path.stem: _read(path) for path in sorted(FOLDER.glob("*.toml"))}
