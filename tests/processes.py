"""Processes of this machine, by their command lines."""

from __future__ import annotations

import psutil


def find_processes(part: str, parent: int | None = None) -> list[int]:
    """Return the PIDs of processes whose command lines hold `part`; of the children of `parent`, if one is given."""
    return [
        process.info["pid"]
        for process in psutil.process_iter(["pid", "ppid", "cmdline"])
        if part in " ".join(process.info["cmdline"] or ()) and parent in (None, process.info["ppid"])
    ]
