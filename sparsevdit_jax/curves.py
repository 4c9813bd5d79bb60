"""Curves through a video: orders of all tokens that keep neighbours near each other.

A walk of shape (frames, rows, columns) is an int64 array with the raster index of the token at each
place. `PATHS` names them; `TokenOrder.path` takes the names.
"""

import functools
from collections.abc import Callable

import numpy as np

Shape = tuple[int, int, int]
_BITS = 21  # of each coordinate in a Morton code: three fill an int64


def gilbert(shape: Shape) -> np.ndarray:
    """The generalised Hilbert curve through any box, as Jenga walks it (arXiv 2505.16864).

    Every step leads to a neighbour where all sides are even; an odd side costs a few longer steps.
    The longest axis leads; of equal ones the columns, then the rows.
    """
    frames, rows, columns = shape
    t, y, x = (rows * columns, frames), (columns, rows), (1, columns)  # raster stride, tokens
    if columns >= rows and columns >= frames:
        axes = (x, y, t)
    elif rows >= columns and rows >= frames:
        axes = (y, x, t)
    else:
        axes = (t, x, y)
    walk: list[int] = []
    boxes = [(0, *axes)]  # the next one last
    while boxes:
        start, *sides = boxes.pop()
        lengths = [abs(n) for _, n in sides]
        if 0 in lengths:
            continue
        if sum(n > 1 for n in lengths) > 1:
            boxes += reversed(_split(start, *sides))
            continue
        stride, n = max(sides, key=lambda side: abs(side[1]))
        walk += range(start, start + stride * n, stride if n > 0 else -stride)
    return np.array(walk)


def gilbert_of_frames(shape: Shape) -> np.ndarray:
    """That curve through each frame, from the corner nearest to where it left the frame before.

    Jenga walks Wan's videos so.
    """
    frames, rows, columns = shape
    curve = np.stack(np.unravel_index(gilbert((1, rows, columns)), (rows, columns)))
    walks, end = [], np.zeros(2, int)
    last = np.array([rows - 1, columns - 1])
    for frame in range(frames):
        turned = end >= np.array([rows, columns]) / 2
        y, x = np.where(turned[:, None], last[:, None] - curve, curve)
        walks.append((frame * rows + y) * columns + x)
        end = np.array([y[-1], x[-1]])
    return np.concatenate(walks)


def _split(start, a, b, c):
    """The boxes that the curve takes in turn through the box at `start`, led by side `a`.

    A side is (raster stride, tokens), where the sign of the tokens is the direction.
    """
    (a0, a1), (b0, b1), (c0, c1) = (_halves(side) for side in (a, b, c))
    w, h, d = (abs(n) for _, n in (a, b, c))
    ahead = start + _last(a)  # the far end of the leading side
    if 2 * w > 3 * h and 2 * w > 3 * d:
        return [(start, a0, b, c), (start + _past(a0), a1, b, c)]
    if 3 * h > 4 * d:
        return [
            (start, b0, c, a0),
            (start + _past(b0), a, b1, c),
            (ahead + _last(b0), _back(b0), c, _back(a1)),
        ]
    if 3 * d > 4 * h:
        return [
            (start, c0, a0, b),
            (start + _past(c0), a, b, c1),
            (ahead + _last(c0), _back(c0), _back(a1), b),
        ]
    return [
        (start, b0, c0, a0),
        (start + _past(b0), c, a0, b1),
        (start + _last(b0) + _last(c), a, _back(b0), _back(c1)),
        (ahead + _past(b0) + _last(c), _back(c), _back(a1), b1),
        (ahead + _last(b0), _back(b0), c0, _back(a1)),
    ]


def _halves(side):
    """Two parts of a side, the first of them even where the side has more than two tokens."""
    stride, n = side
    first = n // 2  # rounded down, so towards the far end where n is negative
    if first % 2 and abs(n) > 2:
        first += 1 if n > 0 else -1
    return (stride, first), (stride, n - first)


def _past(side):
    return side[0] * side[1]


def _last(side):
    stride, n = side
    return stride * (n - int(np.sign(n)))


def _back(side):
    return side[0], -side[1]


def morton(shape: Shape, lowest: str = "column") -> np.ndarray:
    """Tokens by the number that their coordinates' bits make, interleaved (Z-order).

    Args:
      shape: frames, rows, columns.
      lowest: whose bit is the lowest of three: "column", then row and frame (LightX2V), or "frame",
        then row and column (NVlabs/Sana).
    """
    axes = np.ix_(*(np.arange(n) for n in shape))
    axes = axes if lowest == "frame" else axes[::-1]
    code: np.ndarray | int = 0
    for place, x in enumerate(axes):
        for bit in range(_BITS):
            code = code | ((x >> bit & 1) << (3 * bit + place))
    return np.argsort(np.reshape(code, -1), kind="stable")


def cells_then_first_frame(shape: Shape) -> np.ndarray:
    """Cells of 2 x 8 x 8 of the frames after the first, what fills no cell, then the first frame.

    RainFusion2 as LightX2V has it. Its frames after the first must be even in number; here an odd
    last frame comes after the leftover rows and columns.
    """
    tokens = _raster(shape)
    return np.concatenate([_cells(tokens[1:], (2, 8, 8)), tokens[0].reshape(-1)])


def cells_of_frames(shape: Shape) -> np.ndarray:
    """Cells of 8 x 8 of each frame, then its leftover rows and columns, frame after frame.

    RainFusion as SGLang has it: the first frame keeps its raster order where cells do not divide a
    frame.
    """
    tokens = _raster(shape)
    walks = [_cells(frame[None], (1, 8, 8)) for frame in tokens]
    if shape[1] % 8 or shape[2] % 8:
        walks[0] = tokens[0].reshape(-1)
    return np.concatenate(walks)


def _raster(shape):
    return np.arange(np.prod(shape)).reshape(shape)


def _cells(tokens, cell):
    """Whole cells in raster order, then the rows, the columns and the frames left over."""
    t, y, x = (n - n % size for n, size in zip(tokens.shape, cell, strict=True))
    pairs = zip((t, y, x), cell, strict=True)
    boxes = tokens[:t, :y, :x].reshape([n for m, size in pairs for n in (m // size, size)])
    left = (tokens[:t, y:], tokens[:t, :y, x:], tokens[t:])
    parts = (boxes.transpose(0, 2, 4, 1, 3, 5), *left)
    return np.concatenate([part.reshape(-1) for part in parts])


PATHS: dict[str, Callable[[Shape], np.ndarray]] = {
    "gilbert": gilbert,
    "gilbert-frames": gilbert_of_frames,
    "morton": morton,
    "morton-frame": functools.partial(morton, lowest="frame"),
    "rainfusion": cells_then_first_frame,
    "rainfusion-frames": cells_of_frames,
}
"""Walks by name. "morton" has the column in the lowest bit, "morton-frame" the frame."""
