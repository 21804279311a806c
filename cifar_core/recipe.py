"""Recipe: every hyperparameter of a training run in one frozen record, to and from a dict and TOML."""

from __future__ import annotations

import hashlib
import json
import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self, get_type_hints

import tomli_w

from cifar_core.errors import UserError, suggest_name

OPTIMIZERS = ("sgd", "adam", "adamw", "muon", "ranger")
MIXES = ("none", "mixup", "cutmix")
TTA_VIEWS: Mapping[str, int] = {"none": 1, "mirror": 2, "mirror-shift": 6}  # test-time augmentation
CHOICES: Mapping[str, tuple[str, ...]] = {
    "normalisation": ("dataset", "half"),
    "optimizer": OPTIMIZERS,
    "schedule": ("constant", "linear", "cosine", "step", "one-cycle-linear", "one-cycle-cosine"),
    "padding": ("reflect", "zero"),
    "mix": MIXES,
    "orthogonalization": ("newton-schulz", "polar-express"),
    "aux_optimizer": ("adamw", "sgd"),
    "average": ("none", "lookahead", "ema"),
    "tta": tuple(TTA_VIEWS),
}
RANGE_TEST = "range-test"
FIXED_SPLIT = 0.1
MOST_EPOCHS = 10_000.0


class RecipeError(UserError):
    """A recipe that breaks rules; the message states each, and the value given.

    Rules between fields are checked where each field is valid by itself.
    """


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """All hyperparameters of a training run; what the machine decides is in `Hardware`.

    Raises:
        RecipeError: a field has the wrong type or is out of range, or fields contradict each other.
    """

    # network
    model: str = "fast_resnet"  # a name in cifar_core.models.MODELS
    width: float = 1.0  # multiple of the published channel counts
    bn_momentum: float = 0.4  # weight of the newest batch in the running statistics of batch norm

    # length
    epochs: float = 10.0  # passes over the training images; fractions are allowed
    batch_size: int = 512  # images per step
    low_resolution: float = 0.0  # fraction of training, at its start, on images of three quarters of their side

    # data
    val_fraction: float = FIXED_SPLIT  # held-out share of the training set; 0.1: the fixed split, others: drawn by seed
    normalisation: str = "dataset"  # dataset: the data set's mean and standard deviation; half: 0.5 for both

    # optimiser
    optimizer: str = "sgd"  # muon: of the hidden weights only; ranger: RAdam with Lookahead
    orthogonalization: str = "newton-schulz"  # muon: three steps of Newton-Schulz, or five of polar-express
    aux_optimizer: str = "adamw"  # muon: of all other weights; adamw at 0.05 times the rates below, or Nesterov sgd
    learning_rate: float | str = 1.0  # peak rate of the weight matrices; "range-test" finds it
    bias_lr_multiple: float = 1.0  # rate of biases and norms, as a multiple of learning_rate
    head_lr_multiple: float = 1.0  # rate of the last layer's weights, likewise
    momentum: float = 0.85  # of sgd and muon; beta_1 of the others
    aux_momentum: float = 0.9  # muon: of the auxiliary sgd, or beta_1 of adamw
    nesterov: bool = True  # Nesterov momentum for sgd
    weight_decay: float = 0.0015  # decoupled with adamw, muon and ranger; adam and sgd add it to the gradient
    decay_all: bool = False  # biases and norms decay as well
    reset_norms: bool = False  # muon: before each step, hidden weights are scaled to the norm sqrt(C_out), not decayed
    clip_norm: float = 0.0  # largest norm of the whole gradient; 0 disables clipping
    label_smoothing: float = 0.2  # probability mass spread over all classes
    freeze_first: float = 1.0  # fraction of training after which the first layer is frozen; 1: never
    average: str = "none"  # of the weights: ema, evaluated in their place, or lookahead, which they restart from
    average_decay: float = 0.95  # of this average, per step; it is reached at the end of training
    keep_best: bool = False  # keep the weights of the lowest validation loss instead of the last ones

    # schedule of the learning rate
    schedule: str = "linear"  # after the warm-up: constant, linear or cosine to zero, steps, or one-cycle
    warmup: float = 0.05  # fraction of training over which the rate rises to its peak
    start_factor: float = 0.04  # one-cycle: first rate, as a fraction of the peak
    end_factor: float = 0.0  # one-cycle: last rate; step: lowest rate; as fractions of the peak
    momentum_at_peak: float = 0.85  # one-cycle: momentum at the peak rate; `momentum` at both ends
    step_every: float = 0.3  # step: fraction of training between two falls, counted from the end of the warm-up
    step_factor: float = 0.1  # step: factor of each fall
    schedule_per_epoch: bool = False  # quirk of a system: laid out in steps, the schedule advances once per epoch

    # augmentation, drawn separately for every image
    flip: bool = True  # mirror left to right with probability 1/2
    alternate_flip: bool = False  # flip instead a random half of the images in even passes, the others in odd ones
    translate: int = 2  # pixels; largest shift in x and y
    padding: str = "reflect"  # what fills the shifted edge: the mirrored image, or zero (black)
    cutout: int = 0  # pixels; side of a square set to the mean colour
    color_jitter: float = 0.0  # strength of changes in brightness, contrast, saturation and hue
    mix: str = "none"  # blend pairs of images and labels: mixup or cutmix
    mix_alpha: float = 0.2  # both parameters of the Beta distribution of the blend
    tta: str = (
        "none"  # test-time augmentation, reported beside the plain accuracy: 2 views (mirror) or 6 (mirror-shift)
    )

    seed: int = 0  # of initial weights, order and augmentation
    deterministic: bool = False  # use only deterministic kernels, also on a GPU

    def __post_init__(self) -> None:
        faults = [fault for name in FIELD_TYPES if (fault := field_fault(name, getattr(self, name)))]
        if not faults:
            faults = [
                f"{name} needs {what}: `{rule}` must hold, but got {value!r}"
                for name, what, rule, other, holds in _NEEDS
                if getattr(self, name) and not holds(value := getattr(self, other))
            ]
        if faults:
            raise RecipeError("; ".join(faults))

    @property
    def peak_rate(self) -> float:
        """The numeric `learning_rate`.

        Raises:
            RecipeError: it is still "range-test".
        """
        if isinstance(self.learning_rate, str):
            raise RecipeError(f"learning_rate must be a number before training, but got {self.learning_rate!r}")
        return self.learning_rate

    def side_at(self, fraction: float, side: int) -> int:
        """Return the side in pixels of the images in the step that ends at `fraction` of training.

        Progressive resizing: Howard, "Training Imagenet in 3 hours for $25; and CIFAR10 for $0.26" (2018).

        Args:
            side: that of the images of the data set.
        """
        return 3 * side // 4 if fraction <= self.low_resolution else side

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def digest(self) -> str:
        """Hash of the fields that differ from their defaults, so that a new field of recipes changes none."""
        plain = Recipe().to_dict()
        chosen = {name: value for name, value in self.to_dict().items() if value != plain[name]}
        return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:8]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Create a recipe from these fields, with defaults for the others.

        Raises:
            RecipeError: an unknown field, a wrong type, a value out of range, or fields that contradict each other.
        """
        fields_are = f"the fields are {', '.join(FIELD_TYPES)}"
        unknown = [name for name in values if name not in FIELD_TYPES]
        faults = [
            f"unknown recipe field {name!r}: {suggest_name(name, list(FIELD_TYPES), fields_are)}" for name in unknown
        ]
        given = {name: widen(name, values[name]) for name in FIELD_TYPES if name in values}
        faults += [fault for name, value in given.items() if (fault := field_fault(name, value))]
        if faults:
            raise RecipeError("; ".join(faults))
        return cls(**given)

    def to_toml(self) -> str:
        return tomli_w.dumps(self.to_dict())

    @classmethod
    def from_toml(cls, text: str) -> Self:
        """Create a recipe from a TOML document of `field = value` lines.

        Raises:
            RecipeError: not TOML, or not a valid recipe.
        """
        try:
            values = tomllib.loads(text)
        except (ValueError, RecursionError) as error:  # huge numbers and deep nesting raise no TOMLDecodeError
            raise RecipeError(f"a recipe must be valid TOML, but: {error}") from error
        return cls.from_dict(values)


_ONE_SIZE = ("three_conv", "vision_transformer")  # networks that have weights for each place in an image

FIELD_TYPES: Mapping[str, type] = get_type_hints(Recipe) | {"learning_rate": float}

# Switches, and what they need of another field.
_NEEDS: tuple[tuple[str, str, str, str, Callable[[Any], bool]], ...] = (
    ("keep_best", "validation images", "val_fraction > 0", "val_fraction", lambda v: v > 0),
    ("alternate_flip", "flips", "flip = true", "flip", lambda v: v),
    ("reset_norms", "Muon", 'optimizer = "muon"', "optimizer", lambda v: v == "muon"),
    (
        *("low_resolution", "a network for images of any size", f"model not in ({', '.join(_ONE_SIZE)})", "model"),
        lambda v: v not in _ONE_SIZE,
    ),
)
LINKED_FIELDS = frozenset(field for switch, _, _, other, _ in _NEEDS for field in (switch, other))  # judged together

_RULES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "width": (lambda v: 0 < v <= 8, "0 < width <= 8"),
    "bn_momentum": (lambda v: 0 < v <= 1, "0 < bn_momentum <= 1"),
    "epochs": (lambda v: 0 < v <= MOST_EPOCHS, f"0 < epochs <= {MOST_EPOCHS:g}"),
    "batch_size": (lambda v: 2 <= v <= 50_000, "2 <= batch_size <= 50000"),
    "low_resolution": (lambda v: 0 <= v < 1, "0 <= low_resolution < 1"),
    "val_fraction": (lambda v: 0 <= v <= 0.9, "0 <= val_fraction <= 0.9"),
    "learning_rate": (lambda v: v > 0, "learning_rate > 0"),
    "bias_lr_multiple": (lambda v: v > 0, "bias_lr_multiple > 0"),
    "head_lr_multiple": (lambda v: v > 0, "head_lr_multiple > 0"),
    "momentum": (lambda v: 0 <= v < 1, "0 <= momentum < 1"),
    "aux_momentum": (lambda v: 0 <= v < 1, "0 <= aux_momentum < 1"),
    "weight_decay": (lambda v: v >= 0, "weight_decay >= 0"),
    "clip_norm": (lambda v: v >= 0, "clip_norm >= 0"),
    "label_smoothing": (lambda v: 0 <= v < 1, "0 <= label_smoothing < 1"),
    "warmup": (lambda v: 0 <= v < 1, "0 <= warmup < 1"),
    "freeze_first": (lambda v: 0 < v <= 1, "0 < freeze_first <= 1"),
    "average_decay": (lambda v: 0 <= v < 1, "0 <= average_decay < 1"),
    "start_factor": (lambda v: 0 <= v <= 1, "0 <= start_factor <= 1"),
    "end_factor": (lambda v: 0 <= v <= 1, "0 <= end_factor <= 1"),
    "momentum_at_peak": (lambda v: 0 <= v < 1, "0 <= momentum_at_peak < 1"),
    "step_every": (lambda v: 0 < v <= 1, "0 < step_every <= 1"),
    "step_factor": (lambda v: 0 < v <= 1, "0 < step_factor <= 1"),
    "translate": (lambda v: 0 <= v <= 16, "0 <= translate <= 16"),
    "cutout": (lambda v: 0 <= v <= 32, "0 <= cutout <= 32"),
    "color_jitter": (lambda v: 0 <= v <= 1, "0 <= color_jitter <= 1"),
    "mix_alpha": (lambda v: 0.01 <= v <= 10, "0.01 <= mix_alpha <= 10"),
    "seed": (lambda v: 0 <= v < 2**63, "0 <= seed < 2**63"),
}


def widen(name: str, value: Any) -> Any:
    """Convert an int to float where the field is a float (`epochs = 10` in a TOML file)."""
    if FIELD_TYPES[name] is not float or type(value) is not int:
        return value
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def field_fault(name: str, value: Any) -> str | None:
    """Return the rule that `value` breaks as the field `name`, as a sentence, if it breaks one."""
    if name == "learning_rate" and isinstance(value, str):
        return None if value == RANGE_TEST else f"learning_rate must be a number or {RANGE_TEST!r}, but got {value!r}"
    if type(value) is not FIELD_TYPES[name]:
        return f"{name} must be of type {FIELD_TYPES[name].__name__}, but got {_shown(value)}"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{name} must be finite, but got {_shown(value)}"
    if name in CHOICES and value not in CHOICES[name]:
        return f"{name} must be one of {', '.join(CHOICES[name])}, but got {_shown(value)}"
    if name in _RULES and not _RULES[name][0](value):
        return f"`{_RULES[name][1]}` must hold, but got {_shown(value)}"
    return None


def _shown(value: Any) -> str:
    """Return `repr(value)`, but for a number that is too long for it: Python prints none of more than 4,300 digits."""
    too_long = isinstance(value, int) and value.bit_length() > 64
    return f"a number of {value.bit_length()} bits" if too_long else repr(value)
