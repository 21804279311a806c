"""Networks: shapes, sizes, seeds, gradients, and published figures."""

from __future__ import annotations

import importlib
import inspect
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cifar_core.budget import step_flops
from cifar_core.data.data_set import CIFAR10
from cifar_core.data.own_images import SIDES
from cifar_core.models import MODELS, build_model, build_shapes, parameter_count
from cifar_core.models.dynamic_conv import DynamicConv
from cifar_core.models.layers import Dropout
from cifar_core.recipe import Recipe, RecipeError
from tests.cifar_core.support import identical, multiply_adds, seeded, weights

pytestmark = pytest.mark.usefixtures("global_generator_unused")


def random_images(count: int) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=seeded())


def narrow(name: str, seed: int = 0) -> nn.Module:
    """Build a narrow network that is ready for training."""
    width = 0.125 if name == "dynamic_conv" else 0.25
    model = build_model(Recipe(model=name, width=width, seed=seed))
    for module in model.modules():
        if isinstance(module, Dropout):
            module.generator = seeded(seed)
    return model


@pytest.mark.parametrize("width", [0.01, 0.3, 1.0, 1.5])
@pytest.mark.parametrize("name", MODELS)
def test_images_to_logits(name: str, width: float) -> None:
    width /= 8 if name == "dynamic_conv" else 1  # at width 1 it has 57 M weights
    try:
        with torch.no_grad():
            logits = build_model(Recipe(model=name, width=width)).eval()(random_images(2))
    except Exception as error:
        pytest.fail(
            f"{name} must work at width {width:g} (cifar_core.models.layers.channels gives channel counts that do), "
            f"but got: {error}"
        )
    assert logits.shape == (2, 10)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()
    assert logits.std(1).min() > 0


@pytest.mark.parametrize("name", MODELS)
def test_logits_under_autocast_are_in_full_precision(name: str) -> None:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert narrow(name).eval()(random_images(2)).dtype == torch.float32


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", MODELS)
def test_images_of_other_sizes_and_other_classes(name: str, side: int) -> None:
    own = replace(CIFAR10, classes=("rose", "tulip", "lily"), groups=(), side=side)
    images = torch.zeros(2, 3, side, side, device="meta")
    assert build_shapes(name, 0.25, own)(images).shape == (2, 3)
    recipe = Recipe(model=name, width=0.25)
    assert (step_flops(recipe, own) > step_flops(recipe, CIFAR10)) == (side > 32)


@pytest.mark.parametrize("name", MODELS)
def test_low_resolution_is_for_the_networks_that_take_images_of_any_size(name: str) -> None:
    low = torch.zeros(2, 3, 24, 24, device="meta")
    try:
        Recipe(model=name, low_resolution=0.5)
    except RecipeError:
        with pytest.raises(RuntimeError):
            build_shapes(name, 0.25)(low)
    else:
        assert build_shapes(name, 0.25)(low).shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "expected", "tolerance"),
    [
        ("five_conv", 4_968_970, 0),
        ("three_conv", 154_454, 0),
        ("block_cnn", 8_184_426, 0),
        # Published with a branch that is never used: a convolution with bias and a batch norm in each block.
        ("dynamic_conv", 85_855_260 - 3 * (1024 * 1024 * 9 + 1024 + 2 * 1024), 0),
        ("custom_resnet", 6_573_130, 0),
        ("wide_resnet", 1_198_810, 0),
        ("fast_resnet", 2_000_000, 100_000),
        ("airbench96", 9_900_000, 100_000),
        ("vision_transformer", 2_700_000, 50_000),
    ],
)
def test_number_of_weights(name: str, expected: int, tolerance: int) -> None:
    assert abs(parameter_count(name, 1.0) - expected) <= tolerance


@pytest.mark.parametrize("name", MODELS)
def test_wider_is_larger(name: str) -> None:
    sizes = [parameter_count(name, width) for width in (0.25, 0.5, 1.0)]
    assert sizes[0] < sizes[1] < sizes[2]


@pytest.mark.parametrize("name", MODELS)
def test_every_trainable_weight_has_a_gradient(name: str) -> None:
    model = narrow(name).train()
    nn.functional.cross_entropy(model(random_images(8)), torch.arange(8)).backward()
    for label, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"{label} is not used in the forward pass"
            assert parameter.grad.isfinite().all(), label
            assert parameter.grad.any(), label
        else:
            assert parameter.grad is None, label


@pytest.mark.parametrize("name", MODELS)
def test_prediction_does_not_depend_on_the_batch(name: str) -> None:
    model, images = narrow(name).eval(), random_images(5)
    with torch.no_grad():
        together, alone = model(images), model(images[2:3])
    torch.testing.assert_close(together[2:3], alone, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", MODELS)
def test_seed_alone_decides_the_weights(name: str) -> None:
    model = weights(narrow(name, 1))
    assert not identical(weights(narrow(name, 2)), model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        assert identical(weights(narrow(name, 1)), model)


def test_unknown_model() -> None:
    with pytest.raises(RecipeError) as error:
        build_model(Recipe(model="resnet"))
    assert str(error.value) == f"unknown model 'resnet'; expected one of {', '.join(sorted(MODELS))}"


def test_every_network_of_the_package_has_a_name() -> None:
    folder = Path(inspect.getfile(build_model)).parent
    for module in sorted({path.stem for path in folder.glob("*.py")} - {"__init__", "layers"}):
        for name, kind in vars(importlib.import_module(f"cifar_core.models.{module}")).items():
            own = isinstance(kind, type) and issubclass(kind, nn.Module) and kind.__module__.endswith(f".{module}")
            assert not own or name.startswith("_") or kind in MODELS.values(), (
                f"{name} of cifar_core/models/{module}.py must be in MODELS (cifar_core/models/__init__.py), or, if it "
                "is only a part of a network, have a name with a leading underscore"
            )


def test_batch_norm_momentum_is_that_of_the_recipe() -> None:
    for name in MODELS:
        model = build_model(Recipe(model=name, width=0.125, bn_momentum=0.25))
        norms = [module for module in model.modules() if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d))]
        assert norms or name in ("three_conv", "vision_transformer"), f"{name} must have batch norms, or be listed here"
        assert {norm.momentum for norm in norms} <= {0.25}


# The published networks


def test_three_conv_has_the_published_linear_layers() -> None:
    layers = [module for module in build_shapes("three_conv", 1.0).modules() if isinstance(module, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in layers] == [(1024, 120), (120, 60), (60, 10)]


def test_block_cnn_has_six_blocks_of_three_convolutions() -> None:
    model = build_shapes("block_cnn", 1.0)
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    widths = [width for width in (32, 64, 96, 128, 256, 512) for _ in range(3)]
    assert [layer.out_channels for layer in convolutions] == widths
    assert [layer.in_channels for layer in convolutions] == [3, *widths[:-1]]
    sizes: list[int] = []
    for layer in convolutions:
        layer.register_forward_hook(lambda _, __, output: sizes.append(output.shape[-1]))
    model(torch.zeros(2, 3, 32, 32, device="meta"))
    assert sizes == [size for size in (32, 16, 16, 8, 8, 4) for _ in range(3)]


def test_dynamic_conv_mixes_its_branches_for_each_image() -> None:
    model = narrow("dynamic_conv").eval()
    assert isinstance(model, DynamicConv)
    block = model.blocks[0]
    linear, images = block.get_submodule("mixing.0"), random_images(2)
    with torch.no_grad():
        weights = nn.functional.leaky_relu(linear(images.mean((2, 3))))
        branches = torch.stack([block.get_submodule(f"branches.{number}")(images) for number in range(3)])
        expected = torch.einsum("nb,bnchw->nchw", weights, branches)
        mixed = block(images)
    assert mixed.shape == (2, 128, 16, 16)
    torch.testing.assert_close(mixed, expected)


def test_custom_resnet_costs_the_published_number_of_multiply_adds() -> None:
    model = build_shapes("custom_resnet", 1.0)
    counted = multiply_adds(model)
    assert counted == 379_261_952
    # The published figure also counts the weights of the norms and the last bias, one operation each.
    vectors = sum(parameter.numel() for parameter in model.parameters() if parameter.ndim == 1)
    assert round((counted + vectors) / 1e6, 2) == 379.27


def test_dynamic_conv_costs_nine_billion_multiply_adds() -> None:
    assert multiply_adds(build_shapes("dynamic_conv", 1.0)) == pytest.approx(9.1e9, rel=0.01)


def test_custom_resnet_has_two_pairs_of_residual_convolutions() -> None:
    model = narrow("custom_resnet").eval()
    for path, channels in (("features.2", 32), ("features.5", 128)):
        block, inputs = model.get_submodule(path), torch.randn(2, channels, 4, 4, generator=seeded())
        nn.init.zeros_(block.get_parameter("units.1.0.weight"))
        assert torch.equal(block(inputs), inputs)


def test_blocks_of_vision_transformer_have_the_attention_of_torch() -> None:
    block, tokens = narrow("vision_transformer").get_submodule("blocks.0"), torch.randn(2, 64, 64, generator=seeded())
    with torch.random.fork_rng(devices=[]):
        attention = nn.MultiheadAttention(64, num_heads=2, batch_first=True)
    own = {name: block.get_submodule(name).state_dict() for name in ("qkv", "project")}
    attention.load_state_dict(
        {f"in_proj_{name}": value for name, value in own["qkv"].items()}
        | {f"out_proj.{name}": value for name, value in own["project"].items()}
    )
    norm1, norm2, mlp = (block.get_submodule(name) for name in ("norm1", "norm2", "mlp"))
    expected = tokens + attention(*[norm1(tokens)] * 3)[0]
    torch.testing.assert_close(block(tokens), expected + mlp(norm2(expected)))
