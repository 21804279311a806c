"""Choice of the device and its precision, and errors about absent devices."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from cifar_core import hardware
from cifar_core.hardware import Hardware
from tests.cifar_core.support import refusal

CPU = torch.device("cpu")
CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


def pretend(
    monkeypatch: pytest.MonkeyPatch, *, cuda: bool, mps: bool, capabilities: Sequence[tuple[int, int]] = ((9, 0),)
) -> None:
    monkeypatch.setenv(CUBLAS, "")  # so that whatever is set later is undone
    monkeypatch.delenv(CUBLAS)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
    monkeypatch.setattr(torch.cuda, "get_device_capability", capabilities.__getitem__)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


def test_unknown_device() -> None:
    assert refusal(lambda: Hardware.detect("gpu")) == "device must be one of auto, cpu, cuda, mps, but got 'gpu'"


def test_absent_device(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, cuda=False, mps=False)
    monkeypatch.setattr(torch, "__version__", "2.13.0+cu130")
    assert refusal(lambda: Hardware.detect("cuda")) == "device 'cuda' is not on this machine; it has cpu"
    monkeypatch.setattr(torch, "__version__", "2.13.0+cpu")
    assert refusal(lambda: Hardware.detect("cuda")) == (
        "device 'cuda' is not on this machine; it has cpu, as far as torch's CPU build sees: "
        "'make clean install TORCH_INDEX=' takes the other build"
    )
    assert refusal(lambda: Hardware.detect("mps")) == "device 'mps' is not on this machine; it has cpu"
    pretend(monkeypatch, cuda=True, mps=False)
    assert refusal(lambda: Hardware.detect("mps")) == "device 'mps' is not on this machine; it has cuda, cpu"


@pytest.mark.parametrize(
    ("cuda", "mps", "best"), [(False, False, "cpu"), (False, True, "mps"), (True, False, "cuda"), (True, True, "cuda")]
)
def test_auto_takes_the_best(monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, best: str) -> None:
    pretend(monkeypatch, cuda=cuda, mps=mps)
    assert Hardware.detect().device.type == best
    assert Hardware.detect("auto") == Hardware.detect(best)
    assert Hardware.detect("cpu").device == CPU


@pytest.mark.parametrize(("set_before", "expected"), [({}, ":4096:8"), ({CUBLAS: ":16:8"}, ":16:8")])
def test_cublas_is_deterministic_from_its_first_product(
    monkeypatch: pytest.MonkeyPatch, set_before: dict[str, str], expected: str
) -> None:
    pretend(monkeypatch, cuda=True, mps=False)
    os.environ.update(set_before)
    Hardware.detect("cpu")
    assert os.environ.get(CUBLAS) == set_before.get(CUBLAS)
    Hardware.detect("cuda")
    assert os.environ[CUBLAS] == expected


@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [([(7, 5)], "fp32"), ([(8, 0)], "bf16"), ([(9, 0)], "bf16"), ([(9, 0), (7, 5)], "fp32"), ([(9, 0)] * 2, "bf16")],
)
def test_bf16_where_all_gpus_compute_in_it(
    monkeypatch: pytest.MonkeyPatch, capabilities: Sequence[tuple[int, int]], precision: str
) -> None:
    pretend(monkeypatch, cuda=True, mps=False, capabilities=capabilities)
    assert Hardware.detect("cuda").precision == precision


@pytest.mark.parametrize("has_bf16", [False, True])
def test_bf16_where_the_cpu_computes_in_it(monkeypatch: pytest.MonkeyPatch, has_bf16: bool) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_bf16)
    assert Hardware.detect("cpu").bf16 is has_bf16
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")  # a private name, which may go
    assert not Hardware.detect("cpu").bf16


@pytest.mark.parametrize(("bf16", "dtype"), [(False, torch.float32), (True, torch.bfloat16)])
def test_products_in_bf16_over_weights_in_fp32(bf16: bool, dtype: torch.dtype) -> None:
    hardware = Hardware(CPU, bf16=bf16)
    model = hardware.place(nn.Conv2d(3, 8, 3))
    with hardware.autocast():
        assert model(torch.ones(1, 3, 5, 5)).dtype == dtype
    assert model(torch.ones(1, 3, 5, 5)).dtype == torch.float32
    assert {(parameter.dtype, parameter.device) for parameter in model.parameters()} == {(torch.float32, CPU)}
    assert model.get_parameter("weight").is_contiguous(memory_format=torch.channels_last)


def test_description_is_the_name_of_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "exists", lambda path: str(path) == "/proc/cpuinfo")
    monkeypatch.setattr(Path, "read_text", lambda path: "processor\t: 0\nmodel name\t: A Fast CPU @ 3: GHz\n")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"a GPU at {device}")
    assert Hardware(CPU, bf16=False).describe() == "A Fast CPU @ 3: GHz"
    assert Hardware(torch.device("cuda"), bf16=True).describe() == "a GPU at cuda"
    assert Hardware(CPU, bf16=False, name="a CPU elsewhere").describe() == "a CPU elsewhere"


def test_threads_are_at_most_the_usable_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(hardware, "keep_freed_memory", lambda: None)
    monkeypatch.setattr(torch, "set_flush_denormal", lambda on: None)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    for cores, threads in ((3, None), (8, None), (3, 5)):
        monkeypatch.setattr(hardware, "usable_cores", lambda cores=cores: cores)
        hardware.set_up_cpu(threads)
    assert asked == [3, 5]


@pytest.mark.slow
def test_denormal_numbers_are_zero_on_every_thread() -> None:
    program = """
import torch
from cifar_core.hardware import set_up_cpu
set_up_cpu(2)
tiny = torch.full((1_000_000,), 1e-39)
print(torch.get_num_threads(), int((tiny * 1.5).view(torch.int32).count_nonzero()))
"""
    assert subprocess.check_output([sys.executable, "-c", program], text=True).split() == ["2", "0"]
