"""The slowest kernels of a training step, by name, as oneDNN reports them."""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator

import torch

from cifar_core.budget import step_flops
from cifar_core.data.data_set import CIFAR10
from cifar_core.hardware import Hardware, set_up_cpu
from cifar_core.recipe import Recipe
from cifar_core.training import EvalSchedule, TrainState, evenly, train
from experiments.benchmarks import Line, data_to_train
from sweeps.planning.space_file import SPACES

_BATCH, _STEPS, _SHOWN = 256, 3, 8


def bench_kernels(hardware: Hardware) -> Iterator[Line]:
    """List oneDNN's slowest primitives of a step of each network; name reference kernels, which are very slow."""
    yield Line(f"kernels: oneDNN's slowest primitives, milliseconds a step of {_BATCH} images")
    if hardware.device.type != "cpu":
        yield Line("  for a CPU only")
        return
    for model in SPACES["full"].models:
        command = [sys.executable, "-m", "experiments.benchmarks.kernels", model, str(torch.get_num_threads())]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        spent = primitives(done.stdout)
        recipe = Recipe(model=model, batch_size=_BATCH)
        whole = sum(spent.values())
        yield Line(f"  {model}: {whole:.0f} ms in oneDNN, {step_flops(recipe, CIFAR10) / 1e9:,.0f} GFLOP a step")
        for name, milliseconds in sorted(spent.items(), key=lambda item: -item[1])[:_SHOWN]:
            yield Line(f"    {milliseconds:7.1f}  {name}", f"{model}: {name}", {"milliseconds": milliseconds})
        if slow := [name for name in spent if "ref:" in name]:
            yield Line(f"    reference kernels, to be avoided: {'; '.join(slow)}")


def primitives(log: str) -> dict[str, float]:
    """Sum the milliseconds of a step by primitive in oneDNN's log of `_STEPS` steps."""
    spent: dict[str, float] = defaultdict(float)
    for line in log.splitlines():
        fields = line.split(",")
        if fields[0] == "onednn_verbose" and "exec" in fields:
            # ..., exec, cpu, primitive, kernel, direction, memory formats, attributes, auxiliary, shape, milliseconds
            _, primitive, kernel, direction, *_, shape, milliseconds = fields[fields.index("exec") + 1 :]
            spent[f"{primitive} {direction} {shape}, {kernel}"] += float(milliseconds) / _STEPS
    return spent


def _train(model: str, threads: int) -> None:
    set_up_cpu(threads)
    data = data_to_train()
    recipe = Recipe(model=model, batch_size=_BATCH, epochs=(1 + _STEPS) * _BATCH / len(data.train))
    state = TrainState.create(recipe, data, Hardware.detect("cpu"))
    progress = train(state, data, EvalSchedule(evenly(1 + _STEPS)))
    next(progress)  # sets up kernels
    with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
        list(progress)


if __name__ == "__main__":
    _train(sys.argv[1], int(sys.argv[2]))
