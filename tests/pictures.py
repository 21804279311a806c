"""Folders of synthetic pictures, as users have them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image


def draw(kind: int, kinds: int, generator: np.random.Generator, size: tuple[int, int] = (40, 56)) -> Image.Image:
    """Draw a picture of a class: a colour, a gradient and noise, all different."""
    height, width = size
    rows, columns = np.mgrid[0:height, 0:width] / max(size)
    angle = 2 * np.pi * kind / kinds
    colour = 128 + 60 * np.cos(angle + np.array([0.0, 2.0, 4.0]))
    ramp = 40 * (np.cos(angle) * columns + np.sin(angle) * rows)
    noise = generator.normal(0, 30, (height, width, 3))
    return Image.fromarray((colour + ramp[..., None] + noise).clip(0, 255).astype(np.uint8))


def write_pictures(folder: Path, counts: Mapping[str, int], *, seed: int = 0) -> Path:
    """Write so many pictures of each class, as PNG files in a folder for each."""
    generator = np.random.default_rng(seed)
    for kind, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            draw(kind, len(counts), generator).save(folder / name / f"{seed}-{number:04d}.png")
    return folder


def write_oddities(folder: Path) -> list[str]:
    """Write pictures of all modes and formats into a folder, and return their names."""
    generator = np.random.default_rng(1)

    def picture() -> Image.Image:
        return draw(0, 3, generator)

    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    picture().save(folder / "turned.jpg", exif=exif)
    picture().convert("L").save(folder / "grey.png")
    picture().quantize(16).save(folder / "palette.png")
    clear = picture()
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    clear.save(folder / "alpha.png")
    picture().convert("CMYK").save(folder / "cmyk.jpg")
    deep = (np.asarray(picture().convert("L"), dtype=np.uint16) * 257).astype(np.uint16)
    Image.fromarray(deep).save(folder / "deep.png")
    picture().save(folder / "a.webp", lossless=True)
    picture().save(folder / "moving.gif", save_all=True, append_images=[picture(), picture()])
    picture().convert("1").save(folder / "black and white.tif")
    return sorted(path.name for path in folder.iterdir())


def write_broken(folder: Path) -> list[str]:
    """Write files that are no readable pictures into a folder, and return their names."""
    whole = folder / "whole.png"
    draw(0, 3, np.random.default_rng(2), (200, 200)).save(whole)
    (folder / "truncated.png").write_bytes(whole.read_bytes()[:2000])
    whole.unlink()
    (folder / "notes.txt").write_text("these are not the pictures you are looking for\n")
    (folder / "empty.jpg").touch()
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(header)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    data = b"IDAT" + zlib.compress(bytes(1000))
    bomb += struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
    (folder / "bomb.png").write_bytes(bomb)
    return ["bomb.png", "empty.jpg", "notes.txt", "truncated.png"]
