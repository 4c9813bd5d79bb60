"""FastVideo's strategy files for STA: JSON ``"step_layer_head" -> [frames, rows, columns]``, windows in tiles.

The released HunyuanVideo file has 50 x 60 x 24 = 72,000 entries: 15 steps of full windows, then five windows.
"""

import itertools
import json
import re

from sparsevdit_jax.attention import SparseAttention
from sparsevdit_jax.grid import VideoGrid
from sparsevdit_jax.patterns.dense import Dense
from sparsevdit_jax.patterns.sliding_tile import SlidingTile
from sparsevdit_jax.patterns.table import Table
from sparsevdit_jax.schedule import Phase, StepSchedule

TILE = (6, 8, 8)
"""The tile of FastVideo's kernel, in tokens."""

_KEY = re.compile(r"(\d+)_(\d+)_(\d+)")


def from_strategy(
    text: str, grid: VideoGrid, *, tile: tuple[int, int, int] = TILE
) -> SparseAttention:
    """What a strategy file says: a `Table` of windows for each layer, leading full steps as `Phase.DENSE`.

    Args:
      text: contents of the file.
      grid: the canvas that it was searched on; windows at least as large as the canvas are full attention.
      tile: tokens of a tile.

    Raises:
      ValueError: not such a file, or entries are missing.
    """
    windows = _windows(text)
    steps, layers, heads = (max(i) + 1 for i in zip(*windows, strict=True))
    if missing := [
        key
        for key in itertools.product(range(steps), range(layers), range(heads))
        if key not in windows
    ]:
        raise ValueError(
            f"the strategy reaches to step {steps - 1}, layer {layers - 1}, head {heads - 1}, but lacks "
            f"{len(missing)} entries, such as {'_'.join(map(str, missing[0]))!r}; give every one"
        )
    tiles = tiles_of(grid, tile)
    full = {w for w in set(windows.values()) if all(a >= b for a, b in zip(w, tiles, strict=True))}
    dense_steps = 0
    while dense_steps < steps and all(
        windows[dense_steps, layer, head] in full
        for layer in range(layers)
        for head in range(heads)
    ):
        dense_steps += 1
    library = {
        w: Dense() if w in full else SlidingTile(tile, w) for w in sorted(set(windows.values()))
    }
    # Full windows share one entry, whatever the file calls them.
    patterns = list(dict.fromkeys(library.values()))
    index = {w: patterns.index(p) for w, p in library.items()}
    tables = tuple(
        Table(
            tuple(patterns),
            tuple(
                tuple(index[windows[step, layer, head]] for head in range(heads))
                for step in range(steps)
            ),
        )
        for layer in range(layers)
    )
    return SparseAttention(tables, StepSchedule(steps, dense_steps), grid, heads)


def to_strategy(attention: SparseAttention, grid: VideoGrid | None = None) -> str:
    """The strategy file of an attention that holds nothing but STA windows and full attention.

    Args:
      attention: its patterns are `Table`, `SlidingTile` (per head or one for all) or `Dense`.
      grid: the canvas; ``attention.grid`` by default. It gives the window that stands for full attention.

    Raises:
      ValueError: no grid, no head count, another pattern, or tiles of different sizes: the format has no place for it.
    """
    grid = grid or attention.grid
    if grid is None or attention.num_heads is None:
        raise ValueError(
            f"{grid=} and num_heads={attention.num_heads} must be known to write a strategy; give "
            "SparseAttention(patterns, schedule, grid, num_heads)"
        )
    sizes = {
        p.tile
        for pattern in attention.patterns
        for p in _members(pattern)
        if isinstance(p, SlidingTile)
    }
    if len(sizes) > 1:
        raise ValueError(f"tiles {sorted(sizes)} differ; a strategy file is for one tile")
    full = tiles_of(grid, sizes.pop() if sizes else TILE)
    windows = {}
    for step, (layer, pattern) in itertools.product(
        range(attention.schedule.num_steps), enumerate(attention.patterns)
    ):
        dense = attention.schedule.phase(step) is Phase.DENSE
        row = (
            [full] * attention.num_heads
            if dense
            else _row(pattern, step, attention.num_heads, full)
        )
        for head, window in enumerate(row):
            windows[f"{step}_{layer}_{head}"] = list(window)
    return json.dumps(windows)


def tiles_of(grid: VideoGrid, tile: tuple[int, int, int]) -> tuple[int, ...]:
    """Tiles of the canvas along frames, rows and columns, ragged ones counted."""
    return tuple(-(-n // t) for n, t in zip(grid.shape, tile, strict=True))


def _windows(text):
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error}); give a strategy file of FastVideo") from error
    if not isinstance(document, dict) or not document:
        raise ValueError("a strategy file holds one object, not " + type(document).__name__)
    windows = {}
    for key, window in document.items():
        found = _KEY.fullmatch(key)
        sound = (
            isinstance(window, list)
            and len(window) == 3
            and all(isinstance(n, int) and n > 0 for n in window)
        )
        if not found or not sound:
            raise ValueError(
                f"entry {key!r}: {window!r} must be 'step_layer_head': [frames, rows, columns] in tiles"
            )
        windows[tuple(int(i) for i in found.groups())] = tuple(window)
    return windows


def _members(pattern):
    return pattern.library if isinstance(pattern, Table) else (pattern,)


def _row(pattern, step, num_heads, full):
    if isinstance(pattern, Table):
        return [_row(pattern.library[i], step, 1, full)[0] for i in pattern.choice[step]]
    if isinstance(pattern, Dense):
        return [full] * num_heads
    if isinstance(pattern, SlidingTile) and len(pattern.windows) in (1, num_heads):
        return list(pattern.windows) * (num_heads // len(pattern.windows))
    raise ValueError(f"{pattern} has no place in a strategy file: it holds STA windows only")
