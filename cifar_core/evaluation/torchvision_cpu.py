"""torchvision, whatever torch it stands beside: `from cifar_core.evaluation.torchvision_cpu import torchvision`.

Every module of the project takes torchvision from here and then writes `torchvision.utils.make_grid(...)` and
the like. Beside a torch that matches it, this is `import torchvision` and nothing else.

Why it is needed: the published wheel is built for CUDA. Beside a CPU build of torch its compiled part cannot
be loaded, and `import torchvision` dies with "operator torchvision::nms does not exist", because its Python
side attaches shape rules to two compiled operators at import. With these two declared, all of the Python side
works (datasets, models, transforms, utils); only what is compiled (nms, decode_jpeg, ...) does not.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.machinery
import importlib.util
from types import ModuleType

import torch

__all__ = ["torchvision"]

_BOX_OPERATOR = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def _load_compiled_part() -> None:
    """Tries what `import torchvision` will try again; loading the same library twice does nothing."""
    package = importlib.util.find_spec("torchvision")
    if package is None:
        return
    library = importlib.machinery.PathFinder.find_spec("_C", package.submodule_search_locations)
    if library is not None and library.origin is not None:
        with contextlib.suppress(ImportError, OSError):
            torch.ops.load_library(library.origin)


def _declare_missing_operators() -> torch.library.Library | None:
    """Declares `nms` and `qnms` unless they exist; the declarations last as long as what this returns."""
    if hasattr(torch.ops.torchvision, "nms"):
        return None
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(name + _BOX_OPERATOR)
    return library


_load_compiled_part()
_declarations = _declare_missing_operators()
# Not an import statement: it has to come after the declarations, wherever a formatter would put it.
torchvision: ModuleType = importlib.import_module("torchvision")
