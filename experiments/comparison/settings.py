"""Settings: the parameters and conditions in which the groups differ."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import pandas as pd

from experiments.comparison.differences import CONDITIONS, PARAMETERS, Comparison
from experiments.pages.blocks import Block, Cell, Heading, Missing, Pairs, Section, Table
from experiments.pages.text import CitedText, listed
from experiments.reading.study import TrainedRun
from sweeps.words import counted

_TITLES: Mapping[str, str] = {"git_commit": "commit", "data_sha256": "data (SHA-256)", "cpu": "processor"}
_HASHES = ("git_commit", "data_sha256")
_FLOPS = ("trial_flops", "flops_per_image")


def compare_settings(
    comparison: Comparison, of: Callable[[TrainedRun], Mapping[str, str]]
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Compare what `PARAMETERS` or `CONDITIONS` gives of each run.

    Returns:
        the settings that differ, those that are equal in all groups, and those that are equal where they are recorded:
        a row for each setting and a column for each group.
    """
    names = list(dict.fromkeys(name for group in comparison.groups for r in group.runs for name in of(r)))
    columns = {group.name: [group.setting(name, of) for name in names] for group in comparison.groups}
    table = pd.DataFrame(columns, names, dtype=object)
    differs, complete = table.nunique(axis=1) > 1, table.notna().all(axis=1)
    return table[differs], table[~differs & complete], table[~differs & ~complete]


def section(comparison: Comparison) -> Section:
    parameters, conditions = _blocks(comparison, PARAMETERS, "parameter"), _blocks(comparison, CONDITIONS, "condition")
    return Section("Settings", (*parameters, Heading("Conditions: code, data, hardware"), *conditions))


def shown(name: str, value: str | None) -> str:
    """A value for a table: eight letters of a hash, six digits of a long number or of FLOPs, which get their unit."""
    if value is None:
        return "not recorded"
    if name == "parameters":
        return re.sub(r"\b\d{1,99}\b", lambda found: f"{int(found[0]):,}", value)
    if name in _FLOPS:
        return re.sub(r"\d+(\.\d+)?(e[-+]?\d+)?", lambda found: _flops(float(found[0])), value)
    if name in _HASHES:
        return re.sub(r"[0-9a-f]{9,}", lambda found: found[0][:8], value)
    return re.sub(r"\b\d+\.\d{6,}(e-?\d+)?\b", lambda found: f"{float(found[0]):.6g}", value)


def _flops(count: float) -> str:
    scale, unit = next(pair for pair in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (0, "M")) if count >= pair[0])
    return f"{count / (scale or 1e6):.6g} {unit}FLOP"


def _blocks(comparison: Comparison, of: Callable[[TrainedRun], Mapping[str, str]], noun: str) -> list[Block]:
    different, common, partial = compare_settings(comparison, of)
    blocks: list[Block] = [Missing(f"No recorded {noun} differs.")]
    if len(different):
        values = different.to_numpy().tolist()  # iterrows() would make NaN of None
        rows = [
            (_TITLES.get(name, name), [Cell(shown(name, value)) for value in row])
            for name, row in zip(different.index, values, strict=True)
        ]
        blocks = [Table.of_numbers(("", *comparison.titles), rows)]
    if len(common):
        values = {
            _TITLES.get(n, n): Cell(value if n in _HASHES else shown(n, value), style="hash")
            for n, value in common.iloc[:, 0].items()
        }
        blocks.append(Pairs.of(values, f"{counted(len(common), noun)} the same in all groups"))
    if len(partial):
        text = f"Only some groups recorded this, with equal values: {listed(list(partial.index))}."
        blocks.append(CitedText(text))
    return blocks
