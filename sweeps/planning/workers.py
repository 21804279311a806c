"""Number of workers of a sweep, and the threads of each, within the limits of the machine."""

from __future__ import annotations

import torch

from cifar_core.data.own_images import SIDES
from cifar_core.errors import UserError
from sweeps.words import counted

# Measured in 2026-11. Most of `system/process_memory_megabytes` in a study of 50 trials with the preset quick: 3.72 GB
# on a Xeon with AMX, 4.0 GB on an EPYC, in workers that had trained every network; the first three steps of one
# network, with batches of 512, take 1.6 to 3.0 GB. VmHWM on the Xeon of the coordinator of a study of 2 trials: 0.87
# GB; of a worker after one of the smallest trainings (three_conv, width 0.125, batches of 32): 0.73 GB.
# A worker takes in proportion to the pixels: two steps with batches of 512 images of 64x64 took 12.1 GB
# (vision_transformer, whose attention grows with their square) and 3.8 GB (wide_resnet).
_COORDINATOR_BYTES, _WORKER_BYTES, _LEAST_WORKER_BYTES = 0.9e9, 4.0e9, 0.7e9
_PER_CORE = 8  # more workers on a core only hinder one another


def share_cores(
    wanted: int | None, device: torch.device, cores: int, memory: int, side: int, most: int
) -> tuple[int, int]:
    """Return the number of workers and the threads of each.

    The default is one worker for each core or GPU, or as many as the memory allows; there are never more than runs.

    Args:
        wanted: number of workers that the user asked for; None for the default.
        cores, memory: cores and bytes of memory that this process may use.
        side: side of the images in pixels.
        most: runs of a stage, beyond which workers would be idle.

    Raises:
        UserError: the machine cannot run that many.
    """
    if wanted is None:
        places = {"cpu": cores, "cuda": torch.cuda.device_count()}.get(device.type, 1)
        larger = (side / SIDES[0]) ** 2 if device.type == "cpu" else 1.0
        wanted = min(places, _that_fit(memory, _WORKER_BYTES * larger))
    else:
        least = f"{_LEAST_WORKER_BYTES / 1e9:g} GB a worker"
        limits = {
            f"{counted(cores, 'core')} ({_PER_CORE} workers each)": _PER_CORE * cores,
            f"{memory / 1e9:.1f} GB of free memory ({least})": _that_fit(memory, _LEAST_WORKER_BYTES),
        }
        cause = min(limits, key=lambda name: limits[name])
        if wanted > limits[cause]:
            raise UserError(f"--workers must be at most {limits[cause]} on a machine with {cause}, but got {wanted}")
    workers = min(wanted, most)
    return workers, max(1, cores // workers)


def _that_fit(memory: int, each: float) -> int:
    """Return the number of workers that fit beside the coordinator; one is tried in any case."""
    return max(1, int((memory - _COORDINATOR_BYTES) // each))
