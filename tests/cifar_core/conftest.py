"""Fixtures of the tests of the core."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def global_generator_unused() -> Iterator[None]:
    before = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), before), (
        "torch's global generator must not be used: pass a generator, and in networks use "
        "cifar_core.models.layers.Dropout instead of torch.nn.Dropout"
    )
