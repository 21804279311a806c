"""Provenance of a run: code, data, machine and versions, as MLflow tags."""

from __future__ import annotations

import subprocess
from pathlib import Path

import torch

from cifar_core.data.data_set import DataSet
from cifar_core.hardware import Hardware
from cifar_core.models import conv3x3, fused

ROOT = Path(__file__).resolve().parents[2]


def provenance(data_set: DataSet, hardware: Hardware, threads: int) -> dict[str, str]:
    """Return the tags of every run; `threads` are those of a worker."""
    return {
        "git_commit": commit(),
        "data": data_set.name,
        "data_sha256": data_set.sha256,
        "device": hardware.device.type,
        "precision": hardware.precision,
        "kernels": _kernels(hardware),
        "threads": str(threads),
        "torch": torch.__version__,
        "cpu": hardware.describe(),
    }


def _kernels(hardware: Hardware) -> str:
    """Return the compiled kernels that training uses here, such as "fused, AMX": its bits depend on them."""
    if hardware.device.type != "cpu":
        return "none"
    names = ["fused"] if fused.is_available(hardware.dtype) else []
    if conv3x3.is_available(hardware.dtype):
        names.append(conv3x3.algorithm(hardware.dtype))
    return ", ".join(names) or "none"


def commit() -> str:
    """Return the commit of this code, marked as dirty if the working tree differs from it."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return described.stdout.strip()
