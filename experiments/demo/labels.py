"""Places the labels and ticks of a chart."""

import math
from collections.abc import Sequence

FONT = 12.5  # px, size of a label
MARK = 6.5  # px, half of a marker's side

Box = tuple[float, float, float, float]  # left, top, right, bottom


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers that cover [low, high]."""
    if not high > low:
        high = low + 1.0
    raw = (high - low) / count
    power = 10 ** math.floor(math.log10(raw))
    step = power * next((m for m in (1, 2, 2.5, 5) if m * power >= raw * (1 - 1e-9)), 10)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def text_size(text: str) -> tuple[float, float]:
    """Estimated width and height of a label in px."""
    return 0.6 * FONT * len(text) + 4, FONT + 4


def place_labels(
    points: Sequence[tuple[float, float]], sizes: Sequence[tuple[float, float]], bounds: Box
) -> list[Box]:
    """A box per point, near it, inside `bounds`, off all markers and other boxes if there is room.

    Every label tries places around its point, the nearest first; a few rounds over all labels let
    the early ones make way.
    """
    marks = [(x - MARK - 2, y - MARK - 2, x + MARK + 2, y + MARK + 2) for x, y in points]
    boxes: list[Box | None] = [None] * len(points)
    for _ in range(4):
        for i, (point, size) in enumerate(zip(points, sizes, strict=True)):
            others = [b for j, b in enumerate(boxes) if j != i and b is not None]
            boxes[i] = min(
                _candidates(point, size),
                key=lambda c: (
                    20 * sum(overlap(c[1], b) for b in others)
                    + 10 * sum(overlap(c[1], m) for m in marks)
                    + 500 * _outside(c[1], bounds)
                    + c[0]
                ),
            )[1]
    return [box for box in boxes if box is not None]


def _candidates(point: tuple[float, float], size: tuple[float, float]) -> list[tuple[float, Box]]:
    """(cost, box) of places around a point: beside it first, then farther rings."""
    (x, y), (w, h) = point, size
    found = []
    for ring in range(14):
        gap = MARK + 4 + 15 * ring
        for turn in range(16):
            angle = 2 * math.pi * turn / 16
            cx = x + math.cos(angle) * (gap + w / 2)
            cy = y + math.sin(angle) * (gap + h / 2)
            cost = 12 * ring + (0 if turn == 0 else 3 if turn == 8 else 5)
            found.append((cost, (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)))
    return found


def overlap(a: Box, b: Box) -> float:
    """Area that two boxes share."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _outside(box: Box, bounds: Box) -> float:
    left, top, right, bottom = bounds
    return sum(max(0.0, d) for d in (left - box[0], top - box[1], box[2] - right, box[3] - bottom))
