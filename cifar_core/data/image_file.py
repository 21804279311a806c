"""Image files of any kind as input for the networks."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from cifar_core.errors import UserError, first_line

SIDE = 32  # pixels


def read_image(path: Path) -> Tensor:
    """Read an image as uint8 (3, 32, 32).

    It is turned upright, put on white where it is transparent, cropped to a square around the middle, and reduced
    without aliasing. An animation gives its first frame.

    Raises:
        UserError: the file is missing, unreadable, too large, or no image.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about harmless oddities
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as file:
                image = _to_rgb(_middle(ImageOps.exif_transpose(file)))
    except Exception as error:  # decoders raise anything on a damaged file
        raise UserError(f"{printable(path)}: this must be a readable picture, but got: {_cause(error)}") from error
    small = image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1).contiguous()


def printable(path: Path) -> str:
    """Return the path as text, escaped if it has characters that would break a line."""
    text = str(path)
    return text if text.isprintable() else ascii(text)


def _middle(image: Image.Image) -> Image.Image:
    """Crop to the largest square around the middle."""
    side = min(image.size)
    left, top = ((length - side) // 2 for length in image.size)
    return image.crop((left, top, left + side, top + side))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":  # more than 8 bits, which convert() would clip at 255
        values = np.nan_to_num(np.asarray(image, dtype=np.float64))
        white = 65_535 if image.mode != "F" else max(1.0, values.max())
        image = Image.fromarray((values.clip(0, white) / white * 255).round().astype(np.uint8))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _cause(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "no known image format"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return first_line(error)
