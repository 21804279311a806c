"""PNG pictures of images, predictions and confusion matrices."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from cifar_core.data import Split
from cifar_core.evaluation.metrics import Predictions

_SCALE = 3  # screen pixels per image pixel
_CAPTION = 20  # screen pixels
_GAP = 8
_LEAST_NUMBERED, _LEAST_NAMED = 24, 15  # screen pixels of a cell, at least, for its number, and for a name beside it
_BAR, _BAR_HEIGHT, _MOST_BARS = 480, 22, 50  # screen pixels of an accuracy of 1, and of a row; classes
_LONGEST_NAME = 24  # letters of a class
_INK, _RIGHT, _WRONG, _PAPER, _TRACK = "#222222", "#1a7f37", "#c62828", "#ffffff", "#eef1f4"


def samples(split: Split) -> bytes:
    """Draw the first 32 images of `split` with their classes."""
    first, names = split.head(32), [_shortened(name) for name in split.data_set.classes]
    return _grid(first.images, [(names[label], _INK) for label in first.labels.tolist()], columns=8)


def unlabelled(images: Tensor) -> bytes:
    """Draw images (N, 3, H, W) in [0, 1] without captions, for example an augmented batch before normalisation."""
    pixels = (images.clamp(0, 1) * 255).round().to(torch.uint8)
    return _grid(pixels, [("", _INK)] * len(pixels), columns=6)


def confident_mistakes(split: Split, predictions: Predictions) -> bytes:
    """Draw the 18 most confident wrong predictions, each titled "predicted (true)"."""
    return _predicted(split, predictions, predictions.confident_mistakes(18), columns=6)


def predictions_grid(split: Split, predictions: Predictions) -> bytes:
    """Draw the first 20 images of `split`, each titled "predicted (true)" in green if right and red if wrong."""
    return _predicted(split, predictions, torch.arange(min(20, len(split))), columns=5)


def first_prediction(split: Split, predictions: Predictions) -> bytes:
    """Draw the first image, titled as in `predictions_grid`."""
    return _predicted(split, predictions, torch.tensor([0]), columns=1, scale=6)


def class_accuracies(accuracies: Mapping[str, float]) -> bytes:
    """Draw the accuracy of each class, in [0, 1], as a bar; the weakest first, 50 at most. NaN has no bar."""
    known = sorted((name for name in accuracies if not math.isnan(accuracies[name])), key=accuracies.__getitem__)
    names = {name: _shortened(name) for name in known[:_MOST_BARS]}
    font = _font(13, names.values())
    left = 12 + round(max(map(font.getlength, names.values()), default=0))
    rows = len(names) + (len(known) > len(names))
    picture = Image.new("RGB", (left + _BAR + 60, max(1, rows) * _BAR_HEIGHT), _PAPER)
    draw = ImageDraw.Draw(picture)
    for row, (name, shown) in enumerate(names.items()):
        top, end = row * _BAR_HEIGHT + 3, left + _BAR * accuracies[name]
        middle, bottom = top + _BAR_HEIGHT / 2 - 3, top + _BAR_HEIGHT - 6
        draw.rectangle((left, top, left + _BAR, bottom), fill=_TRACK)
        draw.rectangle((left, top, end, bottom), fill=_RIGHT)
        draw.text((left - 6, middle), shown, _INK, font, "rm")
        draw.text((left + _BAR + 6, middle), f"{100 * accuracies[name]:.1f} %", _INK, font, "lm")
    if rows > len(names):
        said = f"These are the {len(names)} weakest of {len(known)} classes."
        draw.text((left, (rows - 0.5) * _BAR_HEIGHT), said, _INK, font, "lm")
    return _png(picture)


def confusion(matrix: Tensor, classes: Sequence[str]) -> bytes:
    """Draw a confusion matrix: counts (classes, classes), a row per true class, cells shaded by share.

    With more than 50 classes the cells have no numbers, and with more than 80 no names.
    """
    count = len(classes)
    cell = max(4, min(60, 1200 // count))
    font, small = _font(min(13, cell), classes), _font(11 if cell > 30 else 9, classes)
    shown = [_shortened(name) for name in classes] if cell >= _LEAST_NAMED else [""] * count
    widest = max(map(font.getlength, shown))
    left, top = max(96, 12 + round(widest)), 34
    turned = max(map(small.getlength, shown)) > cell
    if turned:
        top = 12 + round(widest)
    size = count * cell
    picture = Image.new("RGB", (left + size + 2, top + size + 24), _PAPER)
    draw = ImageDraw.Draw(picture)
    shares = (matrix.double() / matrix.sum(1, keepdim=True).clamp_min(1)).tolist()
    draw.text((left + size / 2, top + size + 12), "predicted class", _INK, font, "mm")
    draw.text((4, top - 17), "true class", _INK, font, "lm")
    for row, name in enumerate(shown):
        draw.text((left - 6, top + (row + 0.5) * cell), name, _INK, font, "rm")
        if turned:
            above = Image.new("RGB", (top, 14), _PAPER)
            ImageDraw.Draw(above).text((6, 7), name, _INK, small, "lm")
            picture.paste(above.rotate(90, expand=True), (round(left + (row + 0.5) * cell) - 7, 0))
        else:
            draw.text((left + (row + 0.5) * cell, top / 2), name, _INK, small, "mm")
        for column in range(count):
            share = shares[row][column]
            if share == 0 and cell < 60:  # of a thousand classes nearly all cells are empty
                continue
            tint = (46, 125, 50) if row == column else (198, 40, 40)
            strength = share if row == column else share**0.5  # shows a few percent, and tells a third from all
            colour = tuple(round(255 + (channel - 255) * strength) for channel in tint)
            corner = (left + column * cell, top + row * cell)
            border = 2 if cell > 8 else 1
            draw.rectangle((*corner, corner[0] + cell - border, corner[1] + cell - border), fill=colour)
            if cell >= _LEAST_NUMBERED:
                ink = "#ffffff" if strength > 0.6 else _INK
                centre = (corner[0] + cell / 2 - 1, corner[1] + cell / 2 - 1)
                draw.text(centre, str(int(matrix[row, column])), ink, font if cell == 60 else small, "mm")
    return _png(picture)


def _font(size: float, texts: Iterable[str]) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return Pillow's own font, or one with more letters where a text needs them."""
    if all(map(str.isascii, texts)):
        return ImageFont.load_default(size)
    import matplotlib  # takes a fifth of a second, and few need it

    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 3]}..."


def _predicted(split: Split, predictions: Predictions, indices: Tensor, columns: int, *, scale: int = _SCALE) -> bytes:
    names = [_shortened(name) for name in split.data_set.classes]
    captions = [
        (f"{names[predicted]} ({names[true]})", _RIGHT if predicted == true else _WRONG)
        for predicted, true in zip(
            predictions.classes[indices].tolist(), predictions.labels[indices].tolist(), strict=True
        )
    ]
    return _grid(split.images[indices], captions, columns, scale=scale)


def _grid(images: Tensor, captions: Sequence[tuple[str, str]], columns: int, *, scale: int = _SCALE) -> bytes:
    """Draw images uint8 (N, 3, H, W) in rows of `columns`, each above its caption (text, colour)."""
    count, _, height, width = images.shape
    columns = max(1, min(columns, count))
    rows = -(-count // columns)
    font = _font(12, [text for text, _ in captions])
    longest = max((font.getlength(text) for text, _ in captions), default=0)
    cell_width = max(width * scale, round(longest)) + _GAP
    cell_height = height * scale + _GAP + (_CAPTION if longest else 0)
    picture = Image.new("RGB", (columns * cell_width + _GAP, rows * cell_height + _GAP), _PAPER)
    draw = ImageDraw.Draw(picture)
    for position, image in enumerate(images):
        left = _GAP // 2 + position % columns * cell_width + (cell_width - width * scale) // 2
        top = _GAP + position // columns * cell_height
        thumbnail = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
        picture.paste(thumbnail.resize((width * scale, height * scale), Image.Resampling.NEAREST), (left, top))
        text, colour = captions[position]
        draw.text((left + width * scale / 2, top + height * scale + 4), text, colour, font, "ma")
    return _png(picture)


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
