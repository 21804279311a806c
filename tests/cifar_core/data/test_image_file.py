"""Image files as input: sizes, colours, transparency, rotation, and files that are no image."""

from __future__ import annotations

import struct
import threading
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from cifar_core.data import image_file
from cifar_core.data.image_file import read_image, read_pixels
from tests.cifar_core.data.colour_profiles import in_srgb, profile
from tests.cifar_core.support import refusal, synthetic

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)


def picture(path: Path, size: tuple[int, int] = (32, 32), colour: tuple[int, ...] = RED, mode: str = "RGB") -> Path:
    Image.new(mode, size, colour).save(path)
    return path


def pixel(path: Path, x: int, y: int) -> tuple[int, ...]:
    return tuple(read_image(path, 32)[:, y, x].tolist())


class TestPictures:
    def test_one_of_the_right_size_is_unchanged(self, tmp_path: Path) -> None:
        [image] = synthetic(1, 0).train.images
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "a.png")
        found = read_image(tmp_path / "a.png", 32)
        assert found.dtype == torch.uint8
        assert found.is_contiguous()
        assert torch.equal(found, image)

    @pytest.mark.parametrize("size", [(1, 1), (7, 5), (100, 32), (33, 2000), (1024, 768)])
    def test_any_size(self, tmp_path: Path, size: tuple[int, int]) -> None:
        image = read_image(picture(tmp_path / "a.png", size), 32)
        assert image.shape == (3, 32, 32)
        assert {tuple(colour) for colour in image.flatten(1).T.tolist()} == {RED}

    @pytest.mark.parametrize("size", [(300, 100), (100, 300)])
    def test_the_middle_is_cropped(self, tmp_path: Path, size: tuple[int, int]) -> None:
        image = Image.new("RGB", size, RED)
        image.paste(GREEN, ((size[0] - 100) // 2, (size[1] - 100) // 2, (size[0] + 100) // 2, (size[1] + 100) // 2))
        image.save(tmp_path / "a.png")
        found = read_image(tmp_path / "a.png", 32)
        assert {tuple(colour) for colour in found.flatten(1).T.tolist()} == {GREEN}

    def test_reducing_takes_the_mean(self, tmp_path: Path) -> None:
        board = (np.indices((320, 320)).sum(0) % 2 * 255).astype(np.uint8)
        Image.fromarray(board).save(tmp_path / "a.png")
        image = read_image(tmp_path / "a.png", 32)
        assert 120 <= image.min() <= image.max() <= 135

    def test_a_camera_that_was_turned(self, tmp_path: Path) -> None:
        image = Image.new("RGB", (64, 64), RED)
        image.paste(BLUE, (32, 0, 64, 64))
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned clockwise by 90 degrees
        image.save(tmp_path / "a.png", exif=exif)
        assert pixel(tmp_path / "a.png", 5, 5) == pixel(tmp_path / "a.png", 27, 5) == RED
        assert pixel(tmp_path / "a.png", 5, 27) == BLUE

    @pytest.mark.parametrize("suffix", ["png", "webp"])
    def test_damaged_exif_does_not_count(self, tmp_path: Path, suffix: str) -> None:
        for damaged in (b"garbage", b"MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00"):
            path = tmp_path / f"a.{suffix}"
            Image.new("RGB", (32, 32), WHITE).save(path, exif=b"Exif\x00\x00" + damaged)
            assert pixel(path, 1, 1) == WHITE

    @pytest.mark.parametrize(
        ("mode", "colour", "expected"),
        [
            ("RGBA", (255, 0, 0, 0), WHITE),
            ("RGBA", (255, 0, 0, 255), RED),
            ("RGBA", (0, 0, 0, 51), (204, 204, 204)),
            ("LA", (0, 0), WHITE),
            ("L", (10,), (10, 10, 10)),
            ("1", (1,), WHITE),
        ],
    )
    def test_transparency_lies_on_white(
        self, tmp_path: Path, mode: str, colour: tuple[int, ...], expected: tuple[int, ...]
    ) -> None:
        assert pixel(picture(tmp_path / "a.png", colour=colour, mode=mode), 16, 16) == expected

    def test_a_palette_with_a_transparent_colour(self, tmp_path: Path) -> None:
        image = Image.new("P", (32, 32), 0)
        image.putpalette([*RED, *BLUE])
        image.paste(1, (16, 0, 32, 32))
        image.save(tmp_path / "a.gif", transparency=0)
        assert (pixel(tmp_path / "a.gif", 4, 4), pixel(tmp_path / "a.gif", 28, 4)) == (WHITE, BLUE)

    @pytest.mark.parametrize(
        ("bits", "kind", "hidden", "shown", "expected"),
        [
            (1, 0, [0], [1], WHITE),
            (2, 0, [1], [2], (170, 170, 170)),
            (4, 0, [3], [12], (204, 204, 204)),
            (8, 0, [3], [204], (204, 204, 204)),
            (16, 0, [1000], [65_535 - 257], (254, 254, 254)),
            (16, 0, [65_535], [2048], (128, 128, 128)),  # of the range of what is seen
            (8, 2, [3, 4, 5], [255, 0, 0], RED),
            (16, 2, [1000, 2000, 3000], [65_535, 0, 0], RED),
            (16, 2, [1000, 0, 0], [65_535, 0, 0], RED),
        ],
    )
    def test_a_colour_of_a_png_that_is_transparent(
        self, tmp_path: Path, bits: int, kind: int, hidden: list[int], shown: list[int], expected: tuple[int, ...]
    ) -> None:
        row = "".join(f"{number:0{bits}b}" for number in hidden * 16 + shown * 16)
        rows = (b"\0" + int(row, 2).to_bytes(len(row) // 8, "big")) * 32
        path = tmp_path / "a.png"
        with path.open("wb") as file:
            file.write(b"\x89PNG\r\n\x1a\n")
            for name, content in (
                (b"IHDR", struct.pack(">IIBBBBB", 32, 32, bits, kind, 0, 0, 0)),
                (b"tRNS", struct.pack(f">{len(hidden)}H", *hidden)),
                (b"IDAT", zlib.compress(rows)),
                (b"IEND", b""),
            ):
                checked = struct.pack(">I", zlib.crc32(name + content))
                file.write(struct.pack(">I", len(content)) + name + content + checked)
        assert (pixel(path, 4, 4), pixel(path, 28, 4)) == (WHITE, expected)

    @pytest.mark.parametrize("name", ["a.jpg", "a.tiff"])
    def test_cmyk(self, tmp_path: Path, name: str) -> None:
        path = picture(tmp_path / name, colour=(0, 0, 0, 255), mode="CMYK")
        assert max(pixel(path, 16, 16)) < 5

    @pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
    def test_more_than_eight_bits(self, tmp_path: Path, kind: type[np.generic]) -> None:
        white = 1.0 if kind is np.float32 else 65_535
        ramp: npt.NDArray[np.float64] = np.tile(np.linspace(0, white, 32), (32, 1))
        Image.fromarray(ramp.astype(kind)).save(tmp_path / "a.tiff")
        assert pixel(tmp_path / "a.tiff", 0, 0) == BLACK
        assert pixel(tmp_path / "a.tiff", 31, 0) == WHITE
        assert pixel(tmp_path / "a.tiff", 16, 0) == (132, 132, 132)

    @pytest.mark.parametrize(
        ("name", "kind", "most", "brightest"),
        [
            ("a.tiff", np.int32, 255, 255),
            ("a.tiff", np.int32, 1, 255),
            ("a.tiff", np.int32, 200, 200),
            ("a.tiff", np.int32, 100_000, 255),
            ("a.tiff", np.uint16, 4095, 255),
            ("a.png", np.uint16, 4095, 255),
            ("a.png", np.uint16, 2048, 128),
            ("a.tiff", np.float32, 3.5, 255),
            ("a.tiff", np.float32, 0.5, 128),
        ],
    )
    def test_numbers_are_scaled_by_their_range(
        self, tmp_path: Path, name: str, kind: type[np.generic], most: float, brightest: int
    ) -> None:
        ramp = np.tile(np.linspace(0, most, 32), (32, 1)).astype(kind)
        Image.fromarray(ramp).save(tmp_path / name)
        assert pixel(tmp_path / name, 0, 0) == BLACK
        assert pixel(tmp_path / name, 31, 0) == (brightest,) * 3

    def test_a_tiff_of_12_bits(self, tmp_path: Path) -> None:
        tags: dict[int, int] = {256: 32, 257: 32, 258: 12, 259: 1, 262: 1, 277: 1, 278: 32, 279: 32 * 48}
        path = tiff(tmp_path / "a.tiff", tags, bytes([0xFF, 0xFF, 0xFF] * 8 + [0] * 24) * 32)
        assert [pixel(path, x, 0) for x in (0, 31)] == [WHITE, BLACK]

    def test_a_tiff_in_which_zero_is_white(self, tmp_path: Path) -> None:
        tags: dict[int, int] = {256: 32, 257: 32, 258: 16, 259: 1, 262: 0, 277: 1, 278: 32, 279: 32 * 64}
        path = tiff(tmp_path / "a.tiff", tags, bytes([0xFF, 0xFF] * 16 + [0] * 32) * 32)
        assert [pixel(path, x, 0) for x in (0, 31)] == [BLACK, WHITE]

    def test_an_animation_is_its_first_frame(self, tmp_path: Path) -> None:
        frames = [Image.new("RGB", (32, 32), colour) for colour in (RED, BLUE)]
        frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
        assert pixel(tmp_path / "a.gif", 16, 16) == RED


def tiff(path: Path, tags: dict[int, int], content: bytes) -> Path:
    """Write a TIFF (little-endian, one strip) with these tags, all of type LONG."""
    tags = {**tags, 273: 8 + 2 + 12 * (len(tags) + 1) + 4}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, tags[tag]) for tag in sorted(tags))
    path.write_bytes(struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4) + content)
    return path


class TestLargePictures:
    def test_a_photo_of_a_phone_is_reduced_while_it_is_decoded(self, tmp_path: Path) -> None:
        """A picture of 200 megapixels, more than Pillow opens by itself."""
        path = picture(tmp_path / "a.jpg", (16_320, 12_240), (100,), "L")
        before = Image.MAX_IMAGE_PIXELS
        assert pixel(path, 16, 16) == (100, 100, 100)
        assert before == Image.MAX_IMAGE_PIXELS, "other users of Pillow keep its limit"

    def test_it_looks_as_if_reduced_from_all_its_pixels(self, tmp_path: Path) -> None:
        [image] = synthetic(1, 0).train.images
        large = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((4096, 4096), Image.Resampling.BICUBIC)
        for name in ("a.jpg", "a.png"):
            large.save(tmp_path / name, quality=95)
        drafted, whole = (read_image(tmp_path / name, 32).float() for name in ("a.jpg", "a.png"))
        assert (drafted - whole).abs().mean() < 1.5

    @pytest.mark.parametrize("size", [(2500, 2500), (2500, 3001)])
    def test_it_has_the_pixels_of_one_that_is_scaled_as_a_whole(self, tmp_path: Path, size: tuple[int, int]) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "a.tiff")
        top = (size[1] - 2500) // 2
        square = Image.fromarray(noise[top : top + 2500])
        on_white = Image.alpha_composite(Image.new("RGBA", square.size, "white"), square).convert("RGB")
        expected = np.asarray(on_white.resize((32, 32), Image.Resampling.LANCZOS))
        assert (read_pixels(tmp_path / "a.tiff", 32)[0] == expected).all()

    def test_numbers_of_a_large_picture_have_one_white(self, tmp_path: Path) -> None:
        numbers = np.full((2500, 2500), 1000, dtype=np.uint16)
        numbers[-1, -1] = 65_535
        Image.fromarray(numbers).save(tmp_path / "a.tiff")
        assert pixel(tmp_path / "a.tiff", 1, 1) == pixel(tmp_path / "a.tiff", 1, 30) == (4, 4, 4)

    def test_very_large_ones_are_read_one_at_a_time(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        reading = threading.Lock()

        def alone(image: Image.Image, *, in_place: bool) -> None:
            assert reading.acquire(blocking=False), "two are read at once"
            time.sleep(0.05)
            reading.release()

        monkeypatch.setattr(image_file, "_LARGE_BYTES", 0)
        monkeypatch.setattr("PIL.ImageOps.exif_transpose", alone)
        path = picture(tmp_path / "a.png")
        with ThreadPoolExecutor(4) as pool:
            assert len(list(pool.map(lambda _: read_pixels(path, 32), range(4)))) == 4

    @pytest.mark.parametrize("kind", [{}, {"progressive": True}])
    def test_one_that_takes_too_much_memory(self, tmp_path: Path, kind: dict[str, Any]) -> None:
        path = tmp_path / ("a.jpg" if kind else "a.png")
        Image.new("RGB", (64, 64)).save(path, **kind)
        with_size(path, 60_000)
        taken = 60_000**2 * (6 if kind else 4) / 1e9
        assert no_picture(path) == (
            f"{path}: this must be a readable picture, but got: it must take at most 2 GB once decoded, but takes "
            f"{taken:.1f} GB"
        )


def with_size(path: Path, side: int) -> None:
    """Change the size in the header of a square picture."""
    content = bytearray(path.read_bytes())
    if path.suffix == ".png":
        content[16:24] = struct.pack(">II", side, side)
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    else:
        start = content.index(b"\xff\xc2") + 5  # the frame of a progressive JPEG
        content[start : start + 4] = struct.pack(">HH", side, side)
    path.write_bytes(content)


class TestColourProfiles:
    @pytest.mark.parametrize("colour", [(200, 120, 60), (40, 180, 90), (128, 128, 128)])
    @pytest.mark.parametrize("space", ["Display P3", "Adobe RGB"])
    @pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
    def test_colours_are_converted_to_srgb(
        self, tmp_path: Path, name: str, space: str, colour: tuple[int, ...]
    ) -> None:
        options: dict[str, Any] = {"lossless": True} if name == "a.webp" else {}
        Image.new("RGB", (32, 32), colour).save(tmp_path / name, icc_profile=profile(space), quality=95, **options)
        assert pixel(tmp_path / name, 16, 16) == pytest.approx(in_srgb(space, colour), abs=3)

    def test_what_is_transparent_and_a_palette_too(self, tmp_path: Path) -> None:
        image = Image.new("RGBA", (32, 32), (40, 180, 90, 255))
        image.paste((0, 0, 0, 0), (16, 0, 32, 32))
        image.save(tmp_path / "a.png", icc_profile=profile("Adobe RGB"))
        Image.new("RGB", (32, 32), (40, 180, 90)).quantize(2).save(tmp_path / "b.png", icc_profile=profile("Adobe RGB"))
        expected = pytest.approx(in_srgb("Adobe RGB", (40, 180, 90)), abs=3)
        assert pixel(tmp_path / "a.png", 4, 4) == pixel(tmp_path / "b.png", 4, 4) == expected
        assert pixel(tmp_path / "a.png", 28, 4) == WHITE

    @pytest.mark.parametrize("content", [b"damaged", profile("Adobe RGB")])
    def test_one_that_does_not_fit_the_picture_is_ignored(self, tmp_path: Path, content: bytes) -> None:
        Image.new("L", (32, 32), 100).save(tmp_path / "a.png", icc_profile=content)
        assert pixel(tmp_path / "a.png", 1, 1) == (100, 100, 100)


def no_picture(path: Path) -> str:
    return refusal(lambda: read_image(path, 32))


class TestUnreadableFiles:
    @pytest.mark.parametrize(("name", "reason"), [("a.png", "No such file or directory"), (".", "not a regular file")])
    def test_no_file(self, tmp_path: Path, name: str, reason: str) -> None:
        path = tmp_path / name
        assert no_picture(path) == f"{path}: this must be a readable picture, but got: {reason}"

    @pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n"])
    def test_no_picture(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "a.png"
        path.write_bytes(content)
        assert no_picture(path) == f"{path}: this must be a readable picture, but got: no known image format"

    def test_eps_starts_no_ghostscript(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "a.jpg"
        Image.new("RGB", (32, 32)).save(path, "EPS")
        monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_: pytest.fail("Ghostscript was started"))
        assert no_picture(path) == f"{path}: this must be a readable picture, but got: no known image format"

    @pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.gif", "a.tiff", "a.webp", "a.bmp"])
    def test_cut_off(self, tmp_path: Path, name: str) -> None:
        path = tmp_path / name
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[:-2000])
        assert no_picture(path).startswith(f"{path}: this must be a readable picture, but got: ")

    @pytest.mark.parametrize("kind", [np.int32, np.float32])
    def test_numbers_below_black(self, tmp_path: Path, kind: type[np.generic]) -> None:
        Image.fromarray(np.linspace(-1000, 3000, 1024).reshape(32, 32).astype(kind)).save(tmp_path / "a.tiff")
        said = no_picture(tmp_path / "a.tiff").partition("but got: ")[2]
        assert said == "its numbers must be from 0 (black) up, but the least is -1000"

    @pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
    def test_numbers_that_are_none(self, tmp_path: Path, odd: float) -> None:
        ramp = np.linspace(0, 1, 1024, dtype=np.float32).reshape(32, 32)
        ramp[5, 7] = odd
        Image.fromarray(ramp).save(tmp_path / "a.tiff")
        said = no_picture(tmp_path / "a.tiff").partition("but got: ")[2]
        assert said == f"its numbers must be finite, but one is {odd:g}"

    def test_colours_of_16_bits_that_use_12(self, tmp_path: Path) -> None:
        tags: dict[int, int] = {256: 32, 257: 32, 258: 16, 259: 1, 262: 2, 277: 3, 278: 32, 279: 32 * 32 * 6}
        path = tiff(tmp_path / "a.tiff", tags, struct.pack("<H", 4000) * 32 * 32 * 3)
        said = no_picture(path).partition("but got: ")[2]
        assert said == "its channels of 16 bits use 12 bits at most; save it with 8 bits a channel"
        assert pixel(tiff(path, tags, struct.pack("<H", 40_000) * 32 * 32 * 3), 1, 1) == (156, 156, 156)

    def test_a_name_with_control_characters(self, tmp_path: Path) -> None:
        assert no_picture(tmp_path / "a\nb\x1b.png").startswith(f"{tmp_path}/a\\nb\\x1b.png: this must be ")

    def test_warnings_about_oddities_are_silenced(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def odd(image: Image.Image, *, in_place: bool) -> None:
            warnings.warn("Corrupt EXIF data", stacklevel=1)

        monkeypatch.setattr("PIL.ImageOps.exif_transpose", odd)
        assert pixel(picture(tmp_path / "a.png"), 1, 1) == RED
