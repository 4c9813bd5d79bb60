"""FastVideo's strategy files for STA: JSON ``"step_layer_head" -> [frames, rows, columns]``, windows in tiles.

The released HunyuanVideo file has 50 x 60 x 24 = 72,000 entries: 15 steps of full windows, then five windows.
"""

import json
import re
from collections.abc import Callable

from sparsevdit_jax.attention import SparseAttention
from sparsevdit_jax.grid import VideoGrid
from sparsevdit_jax.patterns.dense import Dense
from sparsevdit_jax.patterns.sliding_tile import SlidingTile
from sparsevdit_jax.patterns.table import Table
from sparsevdit_jax.schedule import Phase, StepSchedule
from sparsevdit_jax.token_order import check_tile

TILE = (6, 8, 8)
"""The tile of FastVideo's kernel, in tokens."""

_KEY = re.compile(r"(0|[1-9]\d*)_(0|[1-9]\d*)_(0|[1-9]\d*)")


def from_strategy(
    text: str,
    grid: VideoGrid,
    *,
    tile: tuple[int, int, int] = TILE,
    made_for: VideoGrid | None = None,
    say: Callable[[str], None] | None = None,
) -> SparseAttention:
    """Reads a strategy file: a `Table` of windows for each layer. Full windows at its ends become dense steps.

    A window may be as large as the latent grid that the file was made for. It is then full along that axis, and
    stays full on any other grid. A window larger than the present grid is cut. So a warm-up stays dense.

    Args:
      text: contents of the file.
      grid: the present latent grid.
      tile: tokens of a tile.
      made_for: the latent grid that the file was made for; the format has no field for it. None infers its number
        of tiles from the largest window, if every head has that window in the first steps (the warm-up), or if the
        present grid has as many tiles.
      say: called with one line where the file was made for another latent grid.

    Raises:
      ValueError: not such a file, entries are missing, or the latent grid that it was made for is unknown.
    """
    windows = _windows(text)
    steps, layers, heads = (max(i) + 1 for i in zip(*windows, strict=True))
    if absent := steps * layers * heads - len(windows):
        # Not itertools.product, which would lay out as many steps as a key claims.
        every = (key for step in range(steps) for key in _keys(step, layers, heads))
        first = next(key for key in every if key not in windows)
        raise ValueError(
            f"the strategy reaches to step {steps - 1}, layer {layers - 1}, head {heads - 1}, but lacks "
            f"{absent} entries, such as {'_'.join(map(str, first))!r}; give every one"
        )
    tile, tiles = check_tile(tile), tiles_of(grid, tile)
    of_step = [{windows[key] for key in _keys(step, layers, heads)} for step in range(steps)]
    own = tiles_of(made_for, tile) if made_for is not None else _tiles_made_for(of_step, tiles)
    here = {w: _carried(w, own, tiles) for w in set(windows.values())}
    is_full = [all(here[w] == tiles for w in found) for found in of_step]
    dense = next((i for i, full in enumerate(is_full) if not full), steps)
    dense_last = next((i for i, full in enumerate(reversed(is_full)) if not full), 0)
    library = {w: Dense() if here[w] == tiles else SlidingTile(tile, here[w]) for w in sorted(here)}
    # Full windows share one entry, under any name in the file.
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
    if say is not None and own != tiles:
        changed = [f"{list(w)} is {list(n)}" for w, n in sorted(here.items()) if w != n]
        say(
            f"the strategy was made for {list(own)} tiles and this latent grid has {list(tiles)}: "
            f"{dense} first and {dense_last} last steps are full"
            + (f", and window {', '.join(changed)}" if changed else "")
        )
    schedule = StepSchedule(steps, dense, dense_last_steps=dense_last)
    return SparseAttention(tables, schedule, grid, heads)


def to_strategy(attention: SparseAttention, grid: VideoGrid | None = None) -> str:
    """The strategy file of an attention whose patterns are STA windows or dense.

    Args:
      attention: its patterns are `Table`, `SlidingTile` (per head or one for all) or `Dense`.
      grid: the latent grid; ``attention.grid`` by default. A window as large as this grid means dense attention.

    Raises:
      ValueError: no grid, no head count, another pattern, or tiles of different sizes: the format cannot hold it.
    """
    grid = grid or attention.grid
    if grid is None or attention.num_heads is None:
        raise ValueError(
            f"{grid=} and num_heads={attention.num_heads} must be known to write a strategy; give "
            "SparseAttention(patterns, schedule, grid, num_heads)"
        )
    steps, heads = range(attention.schedule.num_steps), attention.num_heads
    rows = {
        (step, layer): pattern.at_step(step, heads)
        for step in steps
        for layer, pattern in enumerate(attention.patterns)
    }
    sizes = {p.tile for row in rows.values() for p in row if hasattr(p, "tile")}
    if len(sizes) > 1:
        raise ValueError(f"tiles {sorted(sizes)} differ; a strategy file is for one tile")
    full = tiles_of(grid, sizes.pop() if sizes else TILE)
    windows = {}
    for (step, layer), row in rows.items():
        dense = attention.schedule.phase(step) is Phase.DENSE
        for head, pattern in enumerate(row):
            window = full if dense else _window(pattern, full)
            windows[f"{step}_{layer}_{head}"] = list(window)
    return json.dumps(windows)


def tiles_of(grid: VideoGrid, tile: tuple[int, int, int]) -> tuple[int, ...]:
    """Tiles of the latent grid along frames, rows and columns, ragged ones counted."""
    return tuple(-(-n // t) for n, t in zip(grid.shape, tile, strict=True))


def _windows(text):
    try:
        document = json.loads(text, object_pairs_hook=_without_repeats)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error}); give a strategy file of FastVideo") from error
    if not isinstance(document, dict) or not document:
        held = "an empty one" if document == {} else type(document).__name__
        raise ValueError(
            f"a strategy file holds one object of windows, not {held}; give FastVideo's"
        )
    windows = {}
    for key, window in document.items():
        found = _KEY.fullmatch(key)
        sound = (
            isinstance(window, list)
            and len(window) == 3
            and all(type(n) is int and n > 0 for n in window)
        )
        if not found or not sound:
            raise ValueError(
                f"entry {key!r}: {window!r} must be 'step_layer_head': [frames, rows, columns] in tiles"
            )
        windows[tuple(int(i) for i in found.groups())] = tuple(window)
    return windows


def _without_repeats(pairs):
    document = dict(pairs)
    if len(document) < len(pairs):
        twice = next(key for key in document if [k for k, _ in pairs].count(key) > 1)
        raise ValueError(f"entry {twice!r} occurs twice; keep one of them")
    return document


def _keys(step, layers, heads):
    return ((step, layer, head) for layer in range(layers) for head in range(heads))


def _tiles_made_for(of_step, tiles):
    """Tiles of the latent grid that a file was made for, from the windows of each step.

    A file of one window alone shows no warm-up: that window may as well be a part of its latent grid.
    """
    found = set().union(*of_step)
    largest = tuple(map(max, zip(*found, strict=True)))
    covers = all(a >= b for w in found for a, b in zip(w, tiles, strict=True))
    if tiles == largest or of_step[0] == {tiles} or covers:
        return tiles
    if of_step[0] == {largest} and len(found) > 1:
        return largest
    raise ValueError(
        f"the latent grid that this strategy was made for is unknown: its largest window is "
        f"{list(largest)} tiles, its first step is not full, and this latent grid has {list(tiles)}. Take "
        "the frames, height and width that it was made for, or make a file for this latent grid with "
        "from_strategy(text, grid, made_for=...).to_json()"
    )


def _carried(window, own, tiles):
    """A window on another latent grid: an axis that was full stays full."""
    pairs = zip(window, own, tiles, strict=True)
    return tuple(n if w >= o else min(w, n) for w, o, n in pairs)


def _window(pattern, full):
    """The window of a head's pattern, in tiles."""
    if pattern.is_dense:
        return full
    if hasattr(pattern, "tile"):
        return pattern.window
    raise ValueError(f"{pattern} has no place in a strategy file: it holds STA windows only")
