"""Colour profiles of well-known spaces, and their colours in sRGB by definition."""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt

# Red, green and blue of the primaries as (x, y), and the exponent, of well-known colour spaces.
PROFILES = {
    "Display P3": (((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)), 2.2),
    "Adobe RGB": (((0.640, 0.330), (0.210, 0.710), (0.150, 0.060)), 2.19921875),
    "sRGB": (((0.640, 0.330), (0.300, 0.600), (0.150, 0.060)), 2.2),
}


D50 = np.array([0.9642, 1.0, 0.8249])  # white of ICC profiles
ADAPTATION = np.array(  # Bradford's, from D65 to D50
    [[1.0479298, 0.0229468, -0.0501922], [0.0296278, 0.9904345, -0.0170738], [-0.0092430, 0.0150552, 0.7518743]]
)


def _fixed(values: npt.NDArray[np.float64]) -> bytes:
    """Numbers of an ICC profile: 16 bits before the point, 16 after it."""
    return struct.pack(">3i", *(round(65_536 * value) for value in values))


def xyz(x: float, y: float) -> npt.NDArray[np.float64]:
    return np.array([x / y, 1.0, (1 - x - y) / y])


def matrix(name: str, white: tuple[float, float] = (0.3127, 0.3290)) -> npt.NDArray[np.float64]:
    """From linear RGB to XYZ of D65."""
    columns = np.stack([xyz(*primary) for primary in PROFILES[name][0]], axis=1)
    return columns * np.linalg.solve(columns, xyz(*white))


def profile(name: str) -> bytes:
    """An ICC profile (version 2) of primaries and an exponent."""
    adapted = ADAPTATION @ matrix(name)
    curve = b"curv" + struct.pack(">II", 0, 1) + struct.pack(">H", round(PROFILES[name][1] * 256)) + bytes(2)
    numbers = {f"{letter}XYZ": adapted[:, index] for index, letter in enumerate("rgb")} | {"wtpt": D50}
    tags = {tag: b"XYZ " + bytes(4) + _fixed(values) for tag, values in numbers.items()}
    tags |= {f"{letter}TRC": curve for letter in "rgb"}
    tags["desc"] = b"desc" + struct.pack(">II", 0, 2) + b"x\0" + bytes(80)
    tags["cprt"] = b"text" + bytes(4) + b"x\0\0\0"
    table, content = b"", b""
    for tag, data in tags.items():
        table += tag.encode() + struct.pack(">II", 132 + 12 * len(tags) + len(content), len(data))
        content += data + bytes(-len(data) % 4)
    head = b"lcms" + struct.pack(">I", 0x02400000) + b"mntrRGB XYZ " + struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp"
    head += bytes(28) + _fixed(D50) + bytes(48)
    body = struct.pack(">I", len(tags)) + table + content
    return struct.pack(">I", 4 + len(head) + len(body)) + head + body


def in_srgb(name: str, colour: tuple[int, ...]) -> tuple[int, ...]:
    """Convert a colour of that space to sRGB, clipped, by its definition."""
    linear = (np.array(colour) / 255) ** PROFILES[name][1]
    seen = np.clip(np.linalg.solve(matrix("sRGB"), matrix(name) @ linear), 0, 1)
    coded = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
    return tuple((255 * coded).round().astype(int).tolist())
