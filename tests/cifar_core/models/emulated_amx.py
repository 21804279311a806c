"""The kernels for AMX on any machine: their C file, with its instructions emulated where there is no AMX."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cifar_core.models import conv3x3


def use_amx(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Use the kernels for AMX until `patch` ends; then call `forget_the_processor`. `folder` is empty."""
    if not conv3x3.amx():
        ours, emulation = Path(conv3x3.__file__).parent, Path(__file__).with_suffix(".h")
        for header in ours.glob("*.h"):
            shutil.copy(header, folder)
        source = folder / "conv3x3_emulated_amx.c"
        source.write_text("".join(path.read_text(encoding="utf-8") for path in (emulation, conv3x3._AMX)))
        patch.setattr(conv3x3, "_AMX", source)
    patch.setattr(conv3x3, "has_amx", lambda: True)
    forget_the_processor()


def forget_the_processor() -> None:
    conv3x3._library.cache_clear()
    conv3x3.amx.cache_clear()
