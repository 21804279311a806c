"""Read TOML and JSON files into pydantic dataclasses, with all faults of a file in one line, and write JSON files."""

from __future__ import annotations

import json
import re
import reprlib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, from_json

from cifar_core.errors import UserError, cause, printable
from cifar_core.files import read_text, write_atomically
from sweeps.words import did_you_mean, shortened

# The configuration of a record that a person writes: no text for a number, no unknown fields.
STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, validate_by_name=True, validate_by_alias=True)

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Text = Annotated[str, Field(min_length=1)]

_Record = TypeVar("_Record")


class InvalidFileError(UserError):
    """A file breaks a rule; the message is one line with the file, the field, the rule and the value."""


def read_toml(path: Path, record: type[_Record], context: Mapping[str, Any] | None = None) -> _Record:
    """Read a TOML file into a pydantic dataclass.

    Args:
        context: passed on to the validators of the dataclass.

    Raises:
        InvalidFileError: the file is not readable TOML, or breaks a rule.
    """
    return parse_toml(path.name, _text_of(path, "TOML"), record, context)


def parse_toml(file: str, text: str, record: type[_Record], context: Mapping[str, Any] | None = None) -> _Record:
    """Read the text of a TOML file into a pydantic dataclass; see `read_toml`.

    Raises:
        InvalidFileError: it is not TOML, or breaks a rule.
    """
    try:
        # As JSON, because pydantic's strict mode refuses Python's lists for tuples and dicts for dataclasses.
        return _validate(file, json.dumps(tomllib.loads(text), default=str), record, context)
    except (ValueError, RecursionError) as error:  # endless numbers and brackets give no TOMLDecodeError
        raise _unreadable(file, "TOML", error) from error


def read_json(path: Path, record: type[_Record]) -> _Record:
    """Read a JSON file into a pydantic dataclass.

    Raises:
        InvalidFileError: the file is not readable JSON, or breaks a rule.
    """
    text = _text_of(path, "JSON")
    try:
        return _validate(path.name, text, record, None)
    except ValueError as error:
        raise _unreadable(path.name, "JSON", error) from error


def write_json(path: Path, record: object) -> None:
    """Write a pydantic dataclass for `read_json`, innermost lists and records on one line each, in one step."""
    text = TypeAdapter(type(record)).dump_json(record, indent=1, by_alias=True)
    innermost = rb"[\[{]\n[^\[\]{}]*\n *[\]}]"  # line breaks of strings are escaped
    write_atomically(path, re.sub(innermost, lambda found: re.sub(rb"\n *", b"", found[0]), text) + b"\n")


def _text_of(path: Path, form: str) -> str:
    try:
        return read_text(path)
    except OSError as error:
        raise _unreadable(printable(path), form, error) from error
    except ValueError as error:
        raise _unreadable(path.name, form, error) from error


def _unreadable(file: str, form: str, error: Exception) -> InvalidFileError:
    return InvalidFileError(f"{file} must be a readable {form} file, but: {cause(error)}")


def _validate(file: str, content: str, record: type[_Record], context: Mapping[str, Any] | None) -> _Record:
    """Read JSON into a pydantic dataclass.

    Raises:
        InvalidFileError: it breaks a rule.
        ValueError: it is not JSON.
    """
    try:
        return TypeAdapter(record).validate_json(content, context=context, by_alias=True, by_name=False)
    except ValidationError as error:
        errors = error.errors()
    if errors[0]["type"] == "json_invalid":
        raise ValueError(errors[0]["ctx"]["error"])
    values = from_json(content)
    faults = shortened([_fault(error, values, record) for error in errors if not _follows(error, errors)], "; ")
    raise InvalidFileError(" ".join(f"{file}: {faults}".split()))  # keys may hold line breaks


def _follows(error: ErrorDetails, errors: Sequence[ErrorDetails]) -> bool:
    """True for a list that is too short only as its invalid items do not count."""
    place = error["loc"]
    return error["type"] == "too_short" and any(e["loc"][: len(place)] == place != e["loc"] for e in errors)


def _fault(error: ErrorDetails, values: Any, record: type) -> str:
    entry, path = _place(error["loc"], values)
    match error["type"]:
        case "missing":
            return f"{entry}field {path!r} is missing"
        case "unexpected_keyword_argument":
            return f"{entry}unknown field {path!r}{did_you_mean(str(error['loc'][-1]), _known(error['loc'], record))}"
        case "value_error":  # from our validators: of a field ("must be ..."), or of a record ("field must be ...")
            rule = str(error["ctx"]["error"])
            return f"{entry}{path}{'' if not path else ' ' if rule.startswith('must ') else '.'}{rule}"
    rule = re.sub(r"^\w+ should ", "must ", error["msg"])
    return f"{entry}{path}{' ' if path else ''}{rule}, but got {reprlib.repr(error['input'])}"


def _place(location: Sequence[int | str], values: Any) -> tuple[str, str]:
    """Return the list entry and the field of an error: "price 'aws-h100': " and "usd", or "" and "test.accuracy"."""
    entry = path = ""
    for step in location:
        try:
            values = values[step]
        except (KeyError, IndexError, TypeError):
            values = None
        if isinstance(step, str):
            path += f".{step}" if path else step
        elif isinstance(values, dict) and (label := values.get("key") or values.get("name")):
            entry, path = f"{entry}{path} {label!r}: ", ""
        else:
            path += f"[{step}]"
    return entry, path


def _known(location: Sequence[int | str], record: type) -> list[str]:
    """Return the fields of the record in which an error is."""
    schema = TypeAdapter(record).json_schema()
    part = schema
    for step in location[:-1]:
        named = part.get("properties", {}).get(step)
        part = part["items"] if isinstance(step, int) else named or part["additionalProperties"]
        part = part.get("anyOf", [part])[0]  # an optional record
        if "$ref" in part:
            part = schema["$defs"][part["$ref"].removeprefix("#/$defs/")]
    return list(part["properties"])
