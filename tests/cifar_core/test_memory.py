"""Memory that did not suffice: every way to say so becomes one line that names the batch."""

from __future__ import annotations

import pytest
import torch

from cifar_core.memory import OutOfMemory, fitting
from cifar_core.recipe import Recipe

RECIPE = Recipe(model="custom_resnet", width=1.0, batch_size=512)
SHORTAGES = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
    RuntimeError("could not create a primitive"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    MemoryError(),
]


@pytest.mark.parametrize("error", SHORTAGES, ids=lambda error: type(error).__name__)
def test_the_batch_is_named(error: Exception) -> None:
    with pytest.raises(OutOfMemory) as raised, fitting(512, RECIPE):
        raise error
    said = str(error).splitlines()[0] if str(error) else "MemoryError"
    expected = f"out of memory: a batch of 512 images did not fit beside the network (custom_resnet, width 1): {said}"
    assert str(raised.value) == expected
    assert raised.value.__cause__ is error


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("no")])
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, fitting(512, RECIPE):
        raise error
    assert raised.value is error
