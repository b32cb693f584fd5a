"""The picture that examples/digits.py draws: twelve digits, what the network took them for, and what it saw in one of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from digits import Digits

COLUMNS = 12
PAPER, INK, FAINT, RIGHT, WRONG, SHOWN = "#101014", "#f4efe6", "#a7a29a", "#8fd694", "#ff6b5e", "#ffb347"
# In inches.
MARGIN, CELL, GAP, LINE = 0.45, 1.0, 0.08, 0.36


def choose(labels: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Rows of twelve digits: right answers, one of each class in order and then once more around; at the end, two mistakes."""
    mistaken = logits.argmax(axis=1) != labels
    wrong, right = np.flatnonzero(mistaken), np.flatnonzero(~mistaken)
    wrong = wrong[:: max(1, len(wrong) - 1)][:2]  # the first and the last
    turn = [np.count_nonzero(labels[right[:place]] == labels[row]) for place, row in enumerate(right)]
    right = right[np.lexsort((labels[right], turn))][: COLUMNS - len(wrong)]
    return np.concatenate([right[np.argsort(labels[right], kind="stable")], wrong])


class Sheet:
    """A dark figure that fills from top to bottom: what is put down goes to the present height, `top`, in inches."""

    def __init__(self, height: float) -> None:
        self.width, self.height = 2 * MARGIN + COLUMNS * (CELL + GAP) - GAP, height
        self.figure = Figure(figsize=(self.width, self.height), facecolor=PAPER)
        self.top = MARGIN

    def text(self, words: str, size: float, color: str = INK, column: int | None = None) -> None:
        """Words from the left margin on, or in the middle of a column."""
        x = MARGIN if column is None else MARGIN + column * (CELL + GAP) + CELL / 2
        align = "left" if column is None else "center"
        self.figure.text(x / self.width, 1 - self.top / self.height, words, size=size, color=color, ha=align, va="top")

    def image(self, column: int, pixels: np.ndarray, colors: str, limits: tuple[float, float], frame: str = "") -> None:
        """An image (H, W) in a column; `frame` is the colour of a frame around it."""
        left, bottom = MARGIN + column * (CELL + GAP), self.height - self.top - CELL
        box = (left / self.width, bottom / self.height, CELL / self.width, CELL / self.height)
        axes = self.figure.add_axes(box, xticks=[], yticks=[])
        axes.imshow(pixels, cmap=colors, vmin=limits[0], vmax=limits[1])
        for spine in axes.spines.values():
            spine.set(visible=bool(frame), color=frame or PAPER, linewidth=2.5)


def draw(path: Path, digits: Digits, logits: np.ndarray, layers: list[np.ndarray], right: float) -> None:
    """Writes the picture.

    Args:
        path: the PNG to write.
        digits: twelve digits.
        logits: the network's answers to them (12, 10).
        layers: the maps that each block of the encoder made of them, (12, C, H, W) each.
        right: the share of all held-out digits that the network got right.
    """
    predicted = logits.argmax(axis=1)
    ink = digits.images.sum(axis=(1, 2, 3))
    shown = int(np.argmax(ink * (predicted == digits.labels)))  # of those that it got right, the one with most to see
    rows = sum(map_rows(maps) for maps in layers)
    sheet = Sheet(2 * MARGIN + 5.9 * LINE + CELL + len(layers) * 1.6 * LINE + rows * (CELL + GAP))
    sheet.text("Twelve digits that the network had never seen", 21)
    sheet.top += 1.35 * LINE
    sheet.text(f"It got {right:.1%} of the held-out ones right. Red: mistaken. Orange: looked at below.", 11.5, FAINT)
    sheet.top += 1.15 * LINE
    draw_digits(sheet, digits, logits, shown)
    sheet.top += 1.5 * LINE
    sheet.text(f"The trace that its encoder kept of this {digits.labels[shown]}", 21)
    sheet.top += 0.8 * LINE
    for number, maps in enumerate(layers, 1):
        draw_maps(sheet, number, maps[shown])
    sheet.figure.savefig(path, dpi=130)


def draw_digits(sheet: Sheet, digits: Digits, logits: np.ndarray, shown: int) -> None:
    """A row of digits, and below each one the answer and how sure the network was."""
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    sure = odds.max(axis=1) / odds.sum(axis=1)
    answers = logits.argmax(axis=1)
    wrong = answers != digits.labels
    for column, image in enumerate(digits.images):
        frame = WRONG if wrong[column] else SHOWN if column == shown else ""
        sheet.image(column, image[0], "gray", (0, 1), frame)
    sheet.top += CELL + 0.22 * LINE
    for column, (answer, label) in enumerate(zip(answers, digits.labels)):
        words, color = (f"{answer}, not {label}", WRONG) if wrong[column] else (f"{answer}", RIGHT)
        sheet.text(words, 15, color, column)
    sheet.top += 0.68 * LINE
    for column in range(len(answers)):
        sheet.text(f"{sure[column]:.0%} sure", 9, FAINT, column)
    sheet.top += 0.42 * LINE


def draw_maps(sheet: Sheet, number: int, maps: np.ndarray) -> None:
    """The channels of one layer (C, H, W) that vary most, in their order, with one colour scale for all of them."""
    count = min(len(maps), COLUMNS * map_rows(maps[None]))
    channels = np.sort(np.argsort(-maps.std(axis=(1, 2)), kind="stable")[:count])
    limits = maps.min(), np.quantile(maps[channels], 0.998)
    sheet.top += 0.7 * LINE
    sheet.text(f"Block {number}: {count} of {len(maps)} channels, {maps.shape[1]} × {maps.shape[2]}", 11.5, FAINT)
    sheet.top += 0.9 * LINE
    for place, channel in enumerate(channels):
        sheet.image(place % COLUMNS, maps[channel], "inferno", limits)
        if place % COLUMNS == COLUMNS - 1 or place == count - 1:
            sheet.top += CELL + GAP


def map_rows(maps: np.ndarray) -> int:
    """How many rows the maps (N, C, H, W) of a layer take: one, or two when there are enough channels to fill them."""
    return 2 if maps.shape[1] >= 2 * COLUMNS else 1
