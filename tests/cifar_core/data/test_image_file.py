"""Image files as input: sizes, colours, transparency, rotation, and files that are no image."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from cifar_core.data.image_file import read_image
from tests.cifar_core.support import refusal, synthetic

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)


def picture(path: Path, size: tuple[int, int] = (32, 32), colour: tuple[int, ...] = RED, mode: str = "RGB") -> Path:
    Image.new(mode, size, colour).save(path)
    return path


def pixel(path: Path, x: int, y: int) -> tuple[int, ...]:
    return tuple(read_image(path)[:, y, x].tolist())


class TestPictures:
    def test_one_of_the_right_size_is_unchanged(self, tmp_path: Path) -> None:
        [image] = synthetic(1, 0).train.images
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "a.png")
        found = read_image(tmp_path / "a.png")
        assert found.dtype == torch.uint8
        assert found.is_contiguous()
        assert torch.equal(found, image)

    @pytest.mark.parametrize("size", [(1, 1), (7, 5), (100, 32), (33, 2000), (1024, 768)])
    def test_any_size(self, tmp_path: Path, size: tuple[int, int]) -> None:
        image = read_image(picture(tmp_path / "a.png", size))
        assert image.shape == (3, 32, 32)
        assert {tuple(colour) for colour in image.flatten(1).T.tolist()} == {RED}

    @pytest.mark.parametrize("size", [(300, 100), (100, 300)])
    def test_the_middle_is_cropped(self, tmp_path: Path, size: tuple[int, int]) -> None:
        image = Image.new("RGB", size, RED)
        image.paste(GREEN, ((size[0] - 100) // 2, (size[1] - 100) // 2, (size[0] + 100) // 2, (size[1] + 100) // 2))
        image.save(tmp_path / "a.png")
        found = read_image(tmp_path / "a.png")
        assert {tuple(colour) for colour in found.flatten(1).T.tolist()} == {GREEN}

    def test_reducing_takes_the_mean(self, tmp_path: Path) -> None:
        board = (np.indices((320, 320)).sum(0) % 2 * 255).astype(np.uint8)
        Image.fromarray(board).save(tmp_path / "a.png")
        image = read_image(tmp_path / "a.png")
        assert 120 <= image.min() <= image.max() <= 135

    def test_a_camera_that_was_turned(self, tmp_path: Path) -> None:
        image = Image.new("RGB", (64, 64), RED)
        image.paste(BLUE, (32, 0, 64, 64))
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned clockwise by 90 degrees
        image.save(tmp_path / "a.png", exif=exif)
        assert pixel(tmp_path / "a.png", 5, 5) == pixel(tmp_path / "a.png", 27, 5) == RED
        assert pixel(tmp_path / "a.png", 5, 27) == BLUE

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

    def test_an_animation_is_its_first_frame(self, tmp_path: Path) -> None:
        frames = [Image.new("RGB", (32, 32), colour) for colour in (RED, BLUE)]
        frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
        assert pixel(tmp_path / "a.gif", 16, 16) == RED


def no_picture(path: Path) -> str:
    return refusal(lambda: read_image(path))


class TestUnreadableFiles:
    @pytest.mark.parametrize(("name", "reason"), [("a.png", "No such file or directory"), (".", "Is a directory")])
    def test_no_file(self, tmp_path: Path, name: str, reason: str) -> None:
        path = tmp_path / name
        assert no_picture(path) == f"{path}: this must be a readable picture, but got: {reason}"

    @pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n"])
    def test_no_picture(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "a.png"
        path.write_bytes(content)
        assert no_picture(path) == f"{path}: this must be a readable picture, but got: no known image format"

    @pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.gif", "a.tiff", "a.webp", "a.bmp"])
    def test_cut_off(self, tmp_path: Path, name: str) -> None:
        path = tmp_path / name
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[:-2000])
        assert no_picture(path).startswith(f"{path}: this must be a readable picture, but got: ")

    @pytest.mark.parametrize("side", [11, 40])
    def test_too_large(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: int) -> None:
        path = picture(tmp_path / "a.png", (side, side))
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        reason = rf"Image size \({side**2} pixels\) exceeds limit of (100|200) pixels, .*"
        assert re.fullmatch(rf"{path}: this must be a readable picture, but got: {reason}", no_picture(path))

    def test_a_name_with_control_characters(self, tmp_path: Path) -> None:
        assert no_picture(tmp_path / "a\nb\x1b.png").startswith(f"'{tmp_path}/a\\nb\\x1b.png': this must be ")

    def test_warnings_about_oddities_are_silenced(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def odd(image: Image.Image) -> Image.Image:
            warnings.warn("Corrupt EXIF data", stacklevel=1)
            return image

        monkeypatch.setattr("PIL.ImageOps.exif_transpose", odd)
        assert pixel(picture(tmp_path / "a.png"), 1, 1) == RED
