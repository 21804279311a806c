"""Channel counts and dropout."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cifar_core.models.layers import Dropout, channels
from tests.cifar_core.support import seeded

pytestmark = pytest.mark.usefixtures("global_generator_unused")


@given(base=st.integers(1, 64).map(lambda k: 8 * k), width=st.floats(0, 8, exclude_min=True))
def test_channels_are_the_nearest_multiple_of_8(base: int, width: float) -> None:
    count = channels(base, width)
    assert count >= 8
    assert count % 8 == 0
    assert count == 8 or abs(count - base * width) <= 4
    assert channels(base, 1.0) == base


def test_dropout_needs_its_generator() -> None:
    with pytest.raises(RuntimeError, match=r"Dropout\.generator must be set before training"):
        Dropout(0.5)(torch.ones(3))


def test_dropout_is_identity_outside_training_and_without_probability() -> None:
    inputs = torch.randn(5, 7, generator=seeded())
    assert torch.equal(Dropout(0.5).eval()(inputs), inputs)
    assert torch.equal(Dropout(0.0).train()(inputs), inputs)


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.8])
def test_dropout_keeps_the_expectation(probability: float) -> None:
    dropout = Dropout(probability)
    dropout.generator = seeded()
    result = dropout(torch.ones(100_000))
    kept = result != 0
    assert kept.float().mean() == pytest.approx(1 - probability, abs=0.01)
    torch.testing.assert_close(result[kept], torch.full_like(result[kept], 1 / (1 - probability)))


def test_dropout_follows_its_generator() -> None:
    dropout, inputs = Dropout(0.5), torch.ones(1_000)
    dropout.generator = seeded(1)
    first, second = dropout(inputs), dropout(inputs)
    dropout.generator = seeded(1)
    assert torch.equal(dropout(inputs), first)
    assert not torch.equal(second, first)
