"""Recipe: everything that decides a training run, in one frozen record that survives a dict and a TOML file."""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from types import MappingProxyType
from typing import Any, Self

import tomli_w

OPTIMIZERS = ("sgd", "adamw", "muon")
SCHEDULES = ("constant", "linear", "cosine")
MIXES = ("none", "mixup", "cutmix")


class RecipeError(ValueError):
    """A recipe that breaks a rule; the message is one line with every broken rule and the value given."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """A training run from first weight to last step, apart from the machine that it runs on.

    Raises:
        RecipeError: a field has the wrong type or is out of range.
    """

    # network
    model: str = "fast_resnet"  # a name in cifar_core.models.MODELS
    width: float = 1.0  # multiple of the channel counts that the model was published with
    bn_momentum: float = 0.4  # weight of the newest batch in batch norm's running statistics

    # length
    epochs: float = 10.0  # passes over the training images; fractions are allowed
    batch_size: int = 512  # images a step

    # optimiser
    optimizer: str = "sgd"  # sgd: Nesterov momentum; adamw; muon: hidden weights by Muon, the rest by AdamW
    learning_rate: float = 1.0  # peak rate of the weights that have two dimensions or more
    bias_lr_multiple: float = 1.0  # the rate of biases and norms, as a multiple of learning_rate
    momentum: float = 0.85  # sgd and muon; beta_1 of adamw
    weight_decay: float = 0.0015  # on the same weights, per unit of rate; added to the gradient by sgd only
    schedule: str = "linear"  # what follows the warm-up: constant, or falling to zero as a line or a cosine
    warmup: float = 0.05  # fraction of training over which the rate rises linearly from zero
    label_smoothing: float = 0.2  # probability mass spread over all classes

    # augmentation, drawn anew for every image
    flip: bool = True  # mirror left and right with probability 1/2
    translate: int = 2  # pixels; shift by up to this much in x and y, edges reflected
    cutout: int = 0  # pixels; side of a square set to the mean colour
    color_jitter: float = 0.0  # strength of changes in brightness, contrast, saturation and hue
    mix: str = "none"  # blend pairs of images and labels: mixup or cutmix
    mix_alpha: float = 0.2  # both parameters of the Beta distribution of the blend

    seed: int = 0  # of initial weights, order and augmentation

    def __post_init__(self) -> None:
        faults = [fault for f in fields(self) if (fault := _fault(f.name, getattr(self, f.name)))]
        if faults:
            raise RecipeError("; ".join(faults))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The recipe with these fields, and the defaults for the others.

        Raises:
            RecipeError: an unknown field, a wrong type, or a value out of range.
        """
        known = [f.name for f in fields(cls)]
        unknown = [_unknown_field(name, known) for name in values if name not in known]
        if unknown:
            raise RecipeError("; ".join(unknown))
        return cls(**{name: _widen(name, value) for name, value in values.items()})

    def to_toml(self) -> str:
        return tomli_w.dumps(self.to_dict())

    @classmethod
    def from_toml(cls, text: str) -> Self:
        """The recipe in a TOML document of `field = value` lines.

        Raises:
            RecipeError: not TOML, or not a valid recipe.
        """
        try:
            values = tomllib.loads(text)
        except (ValueError, RecursionError) as error:  # endless numbers and brackets give no TOMLDecodeError
            raise RecipeError(f"a recipe must be valid TOML, but: {error}") from error
        return cls.from_dict(values)


_FLOATS = frozenset(f.name for f in fields(Recipe) if f.type == "float")
_TYPES: Mapping[str, type] = MappingProxyType({"str": str, "int": int, "float": float, "bool": bool})

_RULES: Mapping[str, tuple[Callable[[Any], bool], str]] = MappingProxyType(
    {
        "width": (lambda v: 0 < v <= 8, "0 < width <= 8"),
        "bn_momentum": (lambda v: 0 < v <= 1, "0 < bn_momentum <= 1"),
        "epochs": (lambda v: 0 < v <= 10_000, "0 < epochs <= 10000"),
        "batch_size": (lambda v: 2 <= v <= 50_000, "2 <= batch_size <= 50000"),
        "optimizer": (lambda v: v in OPTIMIZERS, f"optimizer must be one of {', '.join(OPTIMIZERS)}"),
        "learning_rate": (lambda v: v > 0, "learning_rate > 0"),
        "bias_lr_multiple": (lambda v: v > 0, "bias_lr_multiple > 0"),
        "momentum": (lambda v: 0 <= v < 1, "0 <= momentum < 1"),
        "weight_decay": (lambda v: v >= 0, "weight_decay >= 0"),
        "schedule": (lambda v: v in SCHEDULES, f"schedule must be one of {', '.join(SCHEDULES)}"),
        "warmup": (lambda v: 0 <= v < 1, "0 <= warmup < 1"),
        "label_smoothing": (lambda v: 0 <= v < 1, "0 <= label_smoothing < 1"),
        "translate": (lambda v: 0 <= v <= 16, "0 <= translate <= 16"),
        "cutout": (lambda v: 0 <= v <= 32, "0 <= cutout <= 32"),
        "color_jitter": (lambda v: 0 <= v <= 1, "0 <= color_jitter <= 1"),
        "mix": (lambda v: v in MIXES, f"mix must be one of {', '.join(MIXES)}"),
        "mix_alpha": (lambda v: 0.01 <= v <= 10, "0.01 <= mix_alpha <= 10"),
        "seed": (lambda v: 0 <= v < 2**63, "0 <= seed < 2**63"),
    }
)


def _widen(name: str, value: Any) -> Any:
    """An int where a float is meant (`epochs = 10` in a TOML file) is that float."""
    if name not in _FLOATS or type(value) is not int:
        return value
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _fault(name: str, value: Any) -> str | None:
    expected = _TYPES[Recipe.__dataclass_fields__[name].type]  # type: ignore[index]
    if type(value) is not expected:
        return f"{name} must be of type {expected.__name__}, but got {value!r}"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{name} must be finite, but got {value!r}"
    if name in _RULES and not _RULES[name][0](value):
        return f"`{_RULES[name][1]}` must hold, but got {value!r}"
    return None


def _unknown_field(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"the fields are {', '.join(known)}"
    return f"unknown recipe field {name!r}: {hint}"
