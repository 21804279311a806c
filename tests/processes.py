"""Processes of this machine, by their command lines."""

from __future__ import annotations

from collections.abc import Callable

import psutil


def find_processes(matches: Callable[[str], bool], parent: int | None = None) -> list[int]:
    """Return the PIDs of processes whose command lines match; of the children of `parent`, if one is given."""
    return [
        process.info["pid"]
        for process in psutil.process_iter(["pid", "ppid", "cmdline"])
        if parent in (None, process.info["ppid"]) and matches(" ".join(process.info["cmdline"] or ()))
    ]
