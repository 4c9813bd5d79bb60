"""A clip in overlapping tiles of time, height and width, chunk of frames by chunk of frames."""

from collections.abc import Callable, Iterable, Iterator

import jax
import jax.numpy as jnp

from ..map_tiles import cut_out, map_tiles
from ..tiling import Cut, boxes, end, exceeds, fade, in_tiles, join

Cuts = tuple[Cut, Cut, Cut]


def in_chunks(
    run: Callable[[jax.Array], jax.Array], x: jax.Array, cuts: Cuts
) -> Iterator[jax.Array]:
    """Runs over tiles of x and yields the result in order of time, as it is finished.

    `run` is called with one tile at a time; a chunk and the frames in which it overlaps the next are all
    that is kept between two of them.

    Args:
      run: of [B, C, T, h, w], a causal map that takes the first frame (and nothing else) for itself.
      x: [B, C, T, H, W].
      cuts: of T, H and W.
    """
    in_time, plane = _needed(x, cuts)
    parts = (x[:, :, start : start + frames] for start, frames in _runs(x.shape[2], in_time))
    return _blended((in_tiles(run, part, plane) for part in parts), in_time)


def all_chunks(run: Callable, model, x: jax.Array, cuts: Cuts) -> jax.Array:
    """The chunks of `in_chunks` as one array, in one program; under a mesh each device runs over its share of tiles.

    Args:
      run: of `model` and a tile.
      model: replicated.
      x: as `in_chunks`.
      cuts: as `in_chunks`.
    """
    in_time, plane = _needed(x, cuts)
    size = x.shape[-2:]
    rows = [[(0, 0, *size)]] if plane is None else boxes(size, plane)
    parts = [
        [[(start, *box[:2], frames, *box[2:]) for box in row] for row in rows]
        for start, frames in _runs(x.shape[2], in_time)
    ]

    def tile(operands, corner, size):
        model, x = operands
        return run(model, cut_out(x, corner, size))

    tiles = map_tiles(tile, (model, x), (box for rows in parts for row in rows for box in row))

    def joined(rows):
        results = [[tiles[box] for box in row] for row in rows]
        return results[0][0] if plane is None else join(results, plane)

    return jnp.concatenate(list(_blended(map(joined, parts), in_time)), 2)


def _needed(x: jax.Array, cuts: Cuts) -> tuple[Cut | None, tuple[Cut, Cut] | None]:
    """Cuts in time and in the plane; None where x is no larger than a tile."""
    in_time, down, right = cuts
    plane = (down, right) if exceeds(x.shape[-2:], (down, right)) else None
    return (in_time if x.shape[2] > in_time.size else None), plane


def _runs(frames: int, cut: Cut | None) -> list[tuple[int, int]]:
    """Start and length of a clip's tiles in time.

    The frame before a tile's own goes in with it, for context, so each has one more than `cut.size`.
    """
    if cut is None:
        return [(0, frames)]
    tiles = [(start, min(cut.size + 1, frames - start)) for start in range(0, frames, cut.stride)]
    return [tile for tile in tiles if tile[0] == 0 or tile[1] > 1]  # the others are context alone


def _blended(results: Iterable[jax.Array], cut: Cut | None) -> Iterator[jax.Array]:
    """The chunks that the results of `_runs` make: without their context, and blended with the one before."""
    before = None
    for y in results:
        if cut is None:
            yield y
            return
        first = before is None
        if before is not None:
            y = fade(before, y[:, :, 1:], overlap=cut.overlap, axis=2)
        before = end(y, cut.overlap, 2)
        yield y[:, :, : cut.kept + first]
