"""TokenOrder: from the raster sequence to one in which a pattern's blocks are contiguous, and back.

Every layer reorders q, k, v and its output (three gathers and a scatter). When all layers of a
model share one order the model could permute its input once instead; that is not built until a
profile asks for it.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels._values import flag, whole, wholes
from sparsevdit_jax.curves import PATHS
from sparsevdit_jax.grid import VideoGrid

RASTER = (0, 1, 2)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class TokenOrder:
    """Static recipe of a permutation with padding: raster sequence -> *block order*.

    In block order the video comes first, cut into blocks of `block` slots, and the text last, in
    its own blocks of the same size (but see `joined`). A block with fewer real tokens than slots
    holds them at its start; the other slots are padding. The sequence ends with the last real token, so its length is
    `num_slots`, at most ``num_blocks * block``.

    A hashable value: index arrays are derived (by numpy, once for equal recipes) and never part of
    any state.

    Attributes:
      grid: the sequence that is reordered.
      block: slots in a block.
      tile: (frames, rows, columns) of a box of video tokens with `block` tokens. Each box becomes
        one block, boxes and the tokens in them in raster order (STA, arXiv 2502.04507). Boxes that
        stick out of the video are ragged. None: the tokens are packed in the order of `axes` or of
        `path` and cut every `block`.
      axes: order of the video axes, slowest first: (0, 1, 2) is frame-major, (1, 2, 0) is
        site-major, in which the frames of one site are neighbours (Sparse-vDiT, arXiv 2506.03065).
      path: a walk of `curves.PATHS` in which the video's tokens are packed: "gilbert", "morton" and
        others. None: that of `axes`.
      joined: text follows packed video tokens without a gap, so that one block may hold both; it
        counts as a video block.
    """

    grid: VideoGrid
    block: int
    tile: tuple[int, int, int] | None = None
    axes: tuple[int, int, int] = RASTER
    path: str | None = None
    joined: bool = False

    def __post_init__(self):
        if not isinstance(self.grid, VideoGrid):
            raise ValueError(f"grid={self.grid!r} must be a VideoGrid")
        object.__setattr__(self, "axes", wholes("axes", self.axes, count=3))
        object.__setattr__(self, "block", whole("block", self.block, 1, remedy="it counts tokens"))
        if sorted(self.axes) != [0, 1, 2]:
            raise ValueError(
                f"axes={self.axes} must be a permutation of (0, 1, 2): frame, row, column"
            )
        object.__setattr__(self, "joined", flag("joined", self.joined))
        if self.path not in (None, *PATHS):
            raise ValueError(f"path={self.path!r} must be None or one of {tuple(PATHS)}")
        if self.path is not None and self.axes != RASTER:
            raise ValueError(f"axes={self.axes} and path={self.path!r} are two walks; give one")
        if self.tile is None:
            return
        object.__setattr__(self, "tile", check_tile(self.tile))
        if math.prod(self.tile) != self.block:
            raise ValueError(
                f"block={self.block} must be the volume of tile {self.tile}, "
                f"{math.prod(self.tile)} tokens"
            )
        for name, default in (("axes", RASTER), ("path", None), ("joined", False)):
            if (given := getattr(self, name)) != default:
                raise ValueError(
                    f"{name}={given!r} applies to packed orders; leave it out when tile is given"
                )

    @functools.cached_property
    def tiles(self) -> tuple[int, int, int]:
        """Tiles along each axis of the video; only where `tile` is given."""
        if self.tile is None:
            raise ValueError(f"{self} has no tile; it packs tokens")
        t, y, x = (-(-n // t) for n, t in zip(self.grid.shape, self.tile, strict=True))
        return t, y, x

    @property
    def num_video_blocks(self) -> int:
        """Blocks of video tokens."""
        return math.prod(self.tiles) if self.tile else -(-self.grid.num_video_tokens // self.block)

    @property
    def num_text_blocks(self) -> int:
        """Blocks of text tokens, after the video's."""
        slots = self.text_slot + self.grid.text_len
        return -(-slots // self.block) - self.num_video_blocks

    @property
    def text_slot(self) -> int:
        """Slot of the first text token."""
        return self.grid.num_video_tokens if self.joined else self.num_video_blocks * self.block

    @property
    def num_blocks(self) -> int:
        """All blocks, N."""
        return self.num_video_blocks + self.num_text_blocks

    @functools.cached_property
    def num_slots(self) -> int:
        """Length of the sequence in block order."""
        if self.grid.text_len:
            return self.text_slot + self.grid.text_len
        return int((self.num_blocks - 1) * self.block + self.video_lengths[-1])

    @functools.cached_property
    def video_lengths(self) -> np.ndarray:
        """Video tokens of each video block, int32 [num_video_blocks]."""
        if self.tile:
            t, y, x = (_tile_sizes(n, s) for n, s in zip(self.grid.shape, self.tile, strict=True))
            return (
                (t[:, None, None] * y[None, :, None] * x[None, None, :])
                .reshape(-1)
                .astype(np.int32)
            )
        starts = np.arange(self.num_video_blocks) * self.block
        return np.minimum(self.grid.num_video_tokens - starts, self.block).astype(np.int32)

    def lengths(self, text_lengths=None, parts: int = 1) -> Any:
        """Real tokens of each block, int32 [B|1, 1, N], from text tokens of each row, int32 [B].

        With `parts` those of each of so many equal parts of a block, [B|1, 1, N * parts].
        """
        if self.block % parts:
            raise ValueError(f"{parts=} must divide block={self.block}, so that parts are equal")
        text = np.asarray([self.grid.text_len], np.int32) if text_lengths is None else text_lengths
        xp = jnp if isinstance(text, jax.Array) else np
        size = np.int32(self.block // parts)
        starts = np.arange(self.num_blocks * parts, dtype=np.int32) * size
        video = np.zeros(self.num_blocks, np.int32)
        video[: self.num_video_blocks] = self.video_lengths
        video = np.clip(np.repeat(video, parts) - starts % self.block, 0, size)
        ends = xp.minimum(np.int32(self.text_slot) + text[:, None], (starts + size)[None])
        text = xp.maximum(ends - np.maximum(starts, self.text_slot)[None], 0)
        return (video[None] + text).astype(np.int32)[:, None]

    def mask_lengths(self, text_lengths=None) -> Any:
        """`lengths`, or None when every block is known to be full, which kernels handle faster."""
        full = bool((self.lengths() == self.block).all())
        return None if full and text_lengths is None else self.lengths(text_lengths)

    @property
    def is_identity(self) -> bool:
        """Nothing moves: `apply` and `undo` return their argument."""
        grid = self.grid
        packed = (self.tile is None and self.axes == RASTER and self.path is None) or (
            self.tile is not None
            and self.tile[1:] == grid.shape[1:]
            and (grid.frames % self.tile[0] == 0 or not grid.text_len)
        )
        if self.tile is None and grid.text_len:
            packed &= self.text_slot == grid.num_video_tokens
        return packed and not (grid.text_first and grid.text_len)

    def apply(self, x, axis: int = 1):
        """`x` with its token axis (length L) in block order (length `num_slots`), padding zero."""
        _check_length("apply", x, axis, self.grid.num_tokens, self)
        if self.is_identity:
            return x
        if self._box is None:
            index = gather_indices(self)
            return jnp.take(x, index, axis=axis, mode="fill", fill_value=0)
        start, count = self.grid.video_start, self.grid.num_video_tokens
        video = _slice(x, axis, start, count)
        shape, perm = self._box
        video = _transpose(video, axis, shape, perm)
        if not self.grid.text_len:
            return video
        pad = self.text_slot - count
        parts = [video, _slice(x, axis, self.grid.text_start, self.grid.text_len)]
        if pad:
            size = (*x.shape[:axis], pad, *x.shape[axis + 1 :])
            parts.insert(1, jnp.zeros(size, x.dtype))
        return jnp.concatenate(parts, axis)

    def undo(self, x, axis: int = 1):
        """The inverse of `apply`: real tokens back in raster order, padding dropped."""
        _check_length("undo", x, axis, self.num_slots, self)
        if self.is_identity:
            return x
        if self._box is None:
            return jnp.take(x, slot_positions(self), axis=axis)
        shape, perm = self._box
        turned = tuple(shape[p] for p in perm)
        video = _slice(x, axis, 0, self.grid.num_video_tokens)
        video = _transpose(video, axis, turned, tuple(int(i) for i in np.argsort(perm)))
        if not self.grid.text_len:
            return video
        text = _slice(x, axis, self.text_slot, self.grid.text_len)
        return jnp.concatenate([text, video] if self.grid.text_first else [video, text], axis)

    def pool(self, x, text_lengths=None, parts: int = 1) -> jax.Array:
        """Mean of the real tokens of each block: f32 [B, N, H, D] of x [B, L, H, D]; 0 where there
        are none.

        Args:
          x: raster order.
          text_lengths: real text tokens of each row, int32 [B]; None: all of the room.
          parts: equal parts of a block, each with a mean of its own: [B, N * parts, H, D].
        """
        lengths = self.lengths(text_lengths if self.grid.text_len else None, parts)
        lengths = jnp.asarray(lengths)[:, 0, :, None, None]
        x = self.apply(x).astype(np.float32)
        tail = self.num_blocks * self.block - self.num_slots
        x = jnp.pad(x, ((0, 0), (0, tail), (0, 0), (0, 0)))
        size = self.block // parts
        x = x.reshape(x.shape[0], self.num_blocks * parts, size, *x.shape[2:])
        place = np.arange(size, dtype=np.int32).reshape(1, 1, -1, 1, 1)
        total = jnp.where(place < lengths[:, :, None], x, 0).sum(2)
        return total / jnp.maximum(lengths, 1).astype(np.float32)

    @functools.cached_property
    def _box(self):
        """(shape, perm) of the reshape and transpose of the video part; None: a gather."""
        if self.path is not None:
            return None
        if self.tile is None:
            return self.grid.shape, self.axes
        if any(n % t for n, t in zip(self.grid.shape, self.tile, strict=True)):
            return None
        pairs = zip(self.tiles, self.tile, strict=True)
        return tuple(n for pair in pairs for n in pair), (0, 2, 4, 1, 3, 5)


def check_tile(tile) -> tuple[int, int, int]:
    """`tile` as three positive ints."""
    t, y, x = wholes("tile", tile, 1, count=3, remedy="give its frames, rows and columns in tokens")
    return t, y, x


def _tile_sizes(size, tile):
    """Tokens of each tile along an axis; the last may be ragged."""
    return np.minimum(size - np.arange(0, size, tile), tile)


def _slice(x, axis, start, count):
    return x if count == x.shape[axis] else jax.lax.slice_in_dim(x, start, start + count, axis=axis)


def _transpose(x, axis, shape, perm):
    axis %= x.ndim
    lead, tail = x.shape[:axis], x.shape[axis + 1 :]
    inner = tuple(axis + p for p in perm)
    after = tuple(range(axis + len(perm), axis + len(perm) + len(tail)))
    return x.reshape(*lead, *shape, *tail).transpose(*range(axis), *inner, *after).reshape(x.shape)


def _check_length(verb, x, axis, length, order):
    if x.shape[axis] != length:
        raise ValueError(
            f"cannot {verb} {order}: axis {axis} of {x.shape} must have {length} tokens; "
            "use the grid that the sequence was made for"
        )


@functools.lru_cache(maxsize=64)
def slot_positions(order: TokenOrder) -> np.ndarray:
    """Slot of each token of the raster sequence, int32 [L]."""
    grid = order.grid
    if order.path is not None:
        video = np.argsort(PATHS[order.path](grid.shape))
    elif order.tile is None:
        turned = tuple(grid.shape[a] for a in order.axes)
        slots = np.arange(grid.num_video_tokens).reshape(turned)
        video = slots.transpose(tuple(np.argsort(order.axes))).reshape(-1)
    else:
        at = np.ix_(*(np.arange(n) for n in grid.shape))
        index = rank = np.zeros((1, 1, 1), int)
        for x, n, t, count in zip(at, grid.shape, order.tile, order.tiles, strict=True):
            index = index * count + x // t
            rank = rank * _tile_sizes(n, t)[x // t] + x % t
        video = (index * order.block + rank).reshape(-1)
    text = order.text_slot + np.arange(grid.text_len)
    parts = [text, video] if grid.text_first else [video, text]
    return np.concatenate(parts).astype(np.int32)


@functools.lru_cache(maxsize=64)
def gather_indices(order: TokenOrder) -> np.ndarray:
    """Token in each slot, int32 [num_slots]; L where the slot is padding."""
    gather = np.full(order.num_slots, order.grid.num_tokens, np.int32)
    gather[slot_positions(order)] = np.arange(order.grid.num_tokens, dtype=np.int32)
    return gather
