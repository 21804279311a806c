"""Image files of any kind as input for the networks."""

from __future__ import annotations

import contextlib
import functools
import io
import math
import re
import struct
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageCms, ImageFile, ImageOps, UnidentifiedImageError
from torch import Tensor

from cifar_core.errors import UserError, cause, printable

# Formats of Pillow that are documents, films or data, or that it only writes. To read EPS it would start Ghostscript.
NO_PICTURES = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PALM", "PDF")

_DRAFT = 16  # a JPEG is decoded at 1/2, 1/4 or 1/8 of its size, but not below so many times the final one
_MOST_BYTES = 2e9  # of a decoded picture
_LARGE_BYTES = 2e8  # decoded pictures of more are read one at a time
_ONE_LARGE = threading.Lock()
_BAND_PIXELS = 2**22  # that are converted at a time
_PIXEL_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2}  # by mode; 4 of all others
_PROGRESSIVE_BYTES = 6  # a pixel: all of a progressive JPEG is held, in 2 bytes for each of three channels
_WHITES = tuple(2**bits - 1 for bits in (1, 8, 10, 12, 14, 16))  # the largest numbers of usual sensors and formats
_PHOTOMETRIC, _ZERO_IS_WHITE = 262, 0  # of TIFF
_OF_DAMAGED_EXIF = (AttributeError, SyntaxError, TypeError, ValueError, struct.error)  # the pixels are whole
_SRGB = ImageCms.createProfile("sRGB")


def read_image(path: Path, side: int) -> Tensor:
    """Read an image as uint8 (3, side, side).

    It is turned upright, cropped to a square around the middle, converted to sRGB if it has a colour profile, put on
    white where it is transparent, and reduced without aliasing. An animation gives its first frame. Grey values of
    more than 8 bits are scaled by their range.

    Raises:
        UserError: the file is missing, unreadable, too large, or no image.
    """
    with lenient():
        pixels, _ = read_pixels(path, side)
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def read_pixels(path: Path, side: int) -> tuple[npt.NDArray[np.uint8], tuple[int, int]]:
    """Read an image as `read_image` does, as uint8 (side, side, 3), and its size in the file (width, height).

    Threads may call this side by side in one `lenient()`.

    Raises:
        UserError: as for `read_image`.
    """
    try:
        if path.exists() and not path.is_file():
            raise ValueError("not a regular file")  # opening a named pipe waits until somebody writes to it
        with Image.open(path, formats=_formats()) as file:
            size = file.size
            with _ONE_LARGE if _draft(file, side) > _LARGE_BYTES else contextlib.nullcontext():
                return _square(file, side), size
    except Exception as error:  # decoders raise anything on a damaged file
        found = "no known image format" if isinstance(error, UnidentifiedImageError) else cause(error)
        raise UserError(f"{printable(path)}: this must be a readable picture, but got: {found}") from error


@contextlib.contextmanager
def lenient() -> Iterator[None]:
    """Context without Pillow's warnings about harmless oddities, and without its limit of pixels.

    Some phones exceed that limit, and what counts is the memory. Both are settings of the process.
    """
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in Image.ID if name not in NO_PICTURES)


def _draft(file: Image.Image, side: int) -> float:
    """Make Pillow reduce a JPEG while it decodes it.

    Returns:
        the bytes that the decoded picture takes.

    Raises:
        ValueError: the picture takes too much memory nevertheless.
    """
    held = file.width * file.height * _PROGRESSIVE_BYTES if file.info.get("progressive") else 0
    file.draft(None, (_DRAFT * side, _DRAFT * side))
    needed = max(held, file.width * file.height * _PIXEL_BYTES.get(file.mode, 4))
    if needed > _MOST_BYTES:
        raise ValueError(f"it must take at most {_MOST_BYTES / 1e9:g} GB once decoded, but takes {needed / 1e9:.1f} GB")
    return needed


def _square(file: ImageFile.ImageFile, side: int) -> npt.NDArray[np.uint8]:
    """Decode the picture, convert its middle to sRGB, and reduce it to `side` x `side` pixels.

    Each band is converted and made narrow by itself, then all are made low: `resize` does the same in this order, so
    the pixels are the same, without copies of a whole picture.
    """
    deep = ";16" in str(file.tile)
    inverted = getattr(file, "tag_v2", {}).get(_PHOTOMETRIC) == _ZERO_IS_WHITE
    _scale_transparency(file)
    file.load()
    with contextlib.suppress(*_OF_DAMAGED_EXIF):
        ImageOps.exif_transpose(file, in_place=True)  # else it copies the picture even where it is upright
    white = None
    if file.mode.startswith("I") or file.mode == "F":
        white = _white(file)
    elif deep:
        _check_depth(file)
    narrow = []
    for band in _bands(file):
        image = _to_srgb(band if white is None else _to_grey(band, white, inverted=inverted))
        narrow.append(np.asarray(image.resize((side, image.height), Image.Resampling.LANCZOS)))
    return np.array(Image.fromarray(np.concatenate(narrow)).resize((side, side), Image.Resampling.LANCZOS))


def _scale_transparency(file: ImageFile.ImageFile) -> None:
    """Give the transparent colour of a PNG the 8 bits of its decoded pixels; Pillow leaves it as it is in the file.

    Grey values of 16 bits stay as they are, in both.
    """
    colour, tile = file.info.get("transparency"), str(file.tile)
    if isinstance(colour, tuple) and ";16" in tile:
        file.info["transparency"] = tuple(part >> 8 for part in colour)
    elif isinstance(colour, int) and (bits := re.search(r"'L;([24])'", tile)):
        file.info["transparency"] = colour * 255 // (2 ** int(bits[1]) - 1)


def _bands(image: Image.Image) -> Iterator[Image.Image]:
    """Yield the rows of the largest square around the middle, some at a time."""
    side = min(image.size)
    left, top = ((length - side) // 2 for length in image.size)
    rows = max(1, _BAND_PIXELS // side)
    for start in range(0, side, rows):
        yield image.crop((left, top + start, left + side, top + min(start + rows, side)))


def _white(image: Image.Image) -> float:
    """Return the largest number of the smallest usual format that holds all numbers, or the largest of them.

    Raises:
        ValueError: some are far below 0, infinite or no numbers.
    """
    bands = (np.asarray(band) for band in _bands(image))
    if (hidden := image.info.get("transparency")) is not None:
        bands = (np.where(values == hidden, 0, values) for values in bands)
    ends = [float(end) for values in bands for end in (values.min(), values.max())]  # NaN if any is
    if odd := [end for end in ends if not math.isfinite(end)]:
        raise ValueError(f"its numbers must be finite, but one is {odd[0]:g}")
    least, most = min(ends), max(ends)
    white = max(1.0, most) if image.mode == "F" else next((white for white in _WHITES if most <= white), most)
    if least < -0.01 * white:
        raise ValueError(f"its numbers must be from 0 (black) up, but the least is {least:g}")
    return white


def _to_grey(image: Image.Image, white: float, *, inverted: bool) -> Image.Image:
    """Convert numbers of more than 8 bits to grey values; `convert` would clip them at 255."""
    numbers = np.asarray(image)
    shares = numbers.astype(np.float32).clip(0, white) / white
    grey = Image.fromarray(((1 - shares if inverted else shares) * 255).round().astype(np.uint8))
    if (hidden := image.info.get("transparency")) is not None:
        grey.putalpha(Image.fromarray(numbers != hidden).convert("L"))
    return grey


def _check_depth(image: Image.Image) -> None:
    """Refuse colours of 16 bits of which only the lower ones are used: Pillow reads the upper 8 bits alone."""
    if max(np.asarray(band.convert("RGB")).max() for band in _bands(image)) < 16:
        raise ValueError("its channels of 16 bits use 12 bits at most; save it with 8 bits a channel")


def _to_srgb(image: Image.Image) -> Image.Image:
    """Convert to RGB on white, from the colour profile if there is one that can be used."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
    elif image.mode not in ("L", "CMYK"):
        image = image.convert("RGB")
    if profile := image.info.get("icc_profile"):
        with contextlib.suppress(ImageCms.PyCMSError):  # a damaged profile, or one of another kind of picture
            mode = "RGBA" if image.mode == "RGBA" else "RGB"
            image = ImageCms.profileToProfile(image, io.BytesIO(profile), _SRGB, outputMode=mode) or image
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
