"""Tests of the head."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from cifar_core.data import Split
from cifar_core.transfer.head import SCALINGS, HeadRecipe, Scaling, fit
from tests.cifar_core.support import seeded

LABELS = torch.arange(200) % 10
FEATURES = torch.randn(10, 16, generator=seeded())[LABELS] + 0.3 * torch.randn(200, 16, generator=seeded(1))


@pytest.mark.parametrize("scaling", SCALINGS)
def test_head_learns_classes_that_a_line_parts(scaling: Scaling) -> None:
    head = fit([FEATURES[:100].half()], LABELS[:100], HeadRecipe(scaling=scaling), classes=10)
    predictions = head.predict(FEATURES[100:], Split(torch.zeros(100, 3, 1, 1), LABELS[100:]))
    assert predictions.accuracy > 0.95


@pytest.mark.parametrize("scaling", SCALINGS)
def test_head_is_at_the_minimum_of_its_loss(scaling: Scaling) -> None:
    recipe = HeadRecipe(scaling=scaling, penalty=1e-2)
    head = fit([FEATURES, -FEATURES], LABELS, recipe, classes=10)
    loss = F.cross_entropy(head(torch.cat([FEATURES, -FEATURES])), LABELS.repeat(2))
    (loss + recipe.penalty * head.linear.weight.square().sum()).backward()
    assert head.linear.weight.grad is not None
    assert head.linear.weight.grad.abs().max() < 1e-4


@settings(max_examples=10)
@given(factor=st.floats(0.1, 10), offset=st.floats(-3, 3))
def test_standard_features_have_no_unit(factor: float, offset: float) -> None:
    recipe = HeadRecipe(scaling="standard", penalty=0.1)
    plain, moved = fit([FEATURES], LABELS, recipe, 10), fit([FEATURES * factor + offset], LABELS, recipe, 10)
    torch.testing.assert_close(moved(FEATURES * factor + offset), plain(FEATURES), atol=5e-3, rtol=5e-3)


def test_features_of_one_length_do_not_change_with_their_scale() -> None:
    head = fit([FEATURES], LABELS, HeadRecipe(scaling="length"), 10)
    torch.testing.assert_close(head(7 * FEATURES), head(FEATURES))


def test_a_larger_penalty_gives_smaller_weights() -> None:
    norms = [fit([FEATURES], LABELS, HeadRecipe(penalty=p), 10).linear.weight.norm().item() for p in (1e-3, 1e-2, 1e-1)]
    assert norms == sorted(norms, reverse=True)
