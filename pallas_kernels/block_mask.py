"""BlockMask: for every query block, the list of key/value blocks that it reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from . import _block_lists, _padding
from ._pytree import pytree, static
from ._values import whole

ArrayLike = jax.Array | np.ndarray


@pytree
class BlockMask:
    """Key/value blocks read by each query block, as lists; a pytree of int32 arrays.

    A row is one query block of one head of one batch item. It reads the blocks `kv_indices[..., :kv_counts]`, in any
    order, each of them once: a list that names a block twice has no meaning; one in numpy is refused.
    A row whose count equals `num_kv_blocks` is full: it reads every block, in order, and its list is not looked at, so
    the capacity S need only hold the longest row that is not full. Dense heads and text rows thus cost no memory.
    Leading axes of size 1 broadcast over the batch or the heads.

    Masks built on the host hold numpy arrays, so they may be made and kept anywhere, also inside
    a traced function; everything else holds JAX arrays.

    Attributes:
      kv_indices: int32 [B|1, H|1, Nq, S], indices of key/value blocks.
      kv_counts: int32 [B|1, H|1, Nq], blocks listed in each row.
      q_lengths: int32 [B|1, H|1, Nq], real tokens at the start of each query block; None: all.
      kv_lengths: int32 [B|1, H|1, Nk] or None, the same of each key/value block. Tokens that are
        not real are padding: as keys they get no weight, as queries their output is 0.
      block_q: tokens in a query block.
      block_kv: tokens in a key/value block.
      num_kv_blocks: Nk. The lists cannot tell it, as no row need list the last block.
    """

    kv_indices: ArrayLike
    kv_counts: ArrayLike
    _: dataclasses.KW_ONLY
    q_lengths: ArrayLike | None = None
    kv_lengths: ArrayLike | None = None
    block_q: int = static()
    block_kv: int = static()
    num_kv_blocks: int = static()

    def __post_init__(self) -> None:
        for name in ("block_q", "block_kv", "num_kv_blocks"):
            object.__setattr__(self, name, whole(name, getattr(self, name), 1))
        if self.kv_indices.ndim != 4 or self.kv_indices.shape[:3] != self.kv_counts.shape:
            raise ValueError(
                f"kv_indices {self.kv_indices.shape} must be [B|1, H|1, Nq, S] and kv_counts "
                f"{self.kv_counts.shape} its first three axes; see BlockMask.from_dense"
            )
        for name, array in (("kv_indices", self.kv_indices), ("kv_counts", self.kv_counts)):
            if array.dtype != np.int32:
                raise ValueError(f"{name} has dtype {array.dtype}; make it int32")
        _block_lists.check_distinct(self.kv_indices, self.kv_counts, self.num_kv_blocks)
        _check_lengths("q_lengths", self.q_lengths, self.num_q_blocks, self.block_q)
        _check_lengths("kv_lengths", self.kv_lengths, self.num_kv_blocks, self.block_kv)

    @classmethod
    def from_dense(
        cls,
        keep: ArrayLike,
        *,
        block_q: int,
        block_kv: int,
        q_lengths: ArrayLike | None = None,
        kv_lengths: ArrayLike | None = None,
        capacity: int | None = None,
    ) -> BlockMask:
        """Lists the True entries of `keep`, in ascending order.

        Args:
          keep: bool [B|1, H|1, Nq, Nk], [H|1, Nq, Nk] or [Nq, Nk]. Tracers stay in the program.
          block_q: tokens in a query block.
          block_kv: tokens in a key/value block.
          q_lengths: int32 [B|1, H|1, Nq] or [Nq], real tokens of each query block.
          kv_lengths: int32 [B|1, H|1, Nk] or [Nk], the same of each key/value block.
          capacity: S. By default the longest row that is not full, or, under tracing, Nk - 1.

        Raises:
          ValueError: a concrete row keeps more than `capacity` blocks and is not full. Under
            tracing such a row keeps its `capacity` lowest indices instead.
        """
        traced = isinstance(keep, jax.core.Tracer)
        keep = keep if traced else np.asarray(keep)
        if keep.dtype != np.bool_ or not 2 <= keep.ndim <= 4:
            raise ValueError(
                f"keep is {keep.dtype} {keep.shape}; it must be bool [B|1, H|1, Nq, Nk], "
                "[H|1, Nq, Nk] or [Nq, Nk]"
            )
        if capacity is not None and capacity < 1:
            raise ValueError(f"{capacity=} must be at least 1, or None for the longest row")
        keep = keep.reshape((1,) * (4 - keep.ndim) + keep.shape)
        lists: Any = _block_lists.in_program if traced else _block_lists.on_host
        return cls(
            *lists(keep, capacity),
            q_lengths=_as_lengths(q_lengths),
            kv_lengths=_as_lengths(kv_lengths),
            block_q=block_q,
            block_kv=block_kv,
            num_kv_blocks=keep.shape[-1],
        )

    @classmethod
    def full(
        cls,
        num_q_blocks: int,
        num_kv_blocks: int,
        *,
        block_q: int,
        block_kv: int,
        q_lengths: ArrayLike | None = None,
        kv_lengths: ArrayLike | None = None,
    ) -> BlockMask:
        """The mask that keeps every block, for any batch and heads; holds one count per row."""
        return cls(
            np.zeros((1, 1, num_q_blocks, 1), np.int32),
            np.full((1, 1, num_q_blocks), num_kv_blocks, np.int32),
            q_lengths=_as_lengths(q_lengths),
            kv_lengths=_as_lengths(kv_lengths),
            block_q=block_q,
            block_kv=block_kv,
            num_kv_blocks=num_kv_blocks,
        )

    @property
    def num_q_blocks(self) -> int:
        """Nq."""
        return self.kv_counts.shape[-1]

    @property
    def capacity(self) -> int:
        """S, entries stored for each row."""
        return self.kv_indices.shape[-1]

    @property
    def batch_and_heads(self) -> tuple[int, int]:
        """Leading axes of all arrays, broadcast: (B|1, H|1)."""
        arrays = (self.kv_counts, self.q_lengths, self.kv_lengths)
        batch, heads = np.broadcast_shapes(*(a.shape[:2] for a in arrays if a is not None))
        return batch, heads

    @property
    def is_full(self) -> bool:
        """Whether NumPy counts say that every row is full; False where they are not known."""
        return isinstance(self.kv_counts, np.ndarray) and bool(self._full_rows().all())

    @property
    def is_empty(self) -> bool:
        """Whether NumPy counts say that every row is empty; False where they are not known."""
        return isinstance(self.kv_counts, np.ndarray) and not self.kv_counts.any()

    def to_dense(self) -> jax.Array:
        """Bool [B|1, H|1, Nq, Nk]: True where the block pair is kept."""
        listed = _block_lists.to_dense(self.kv_indices, self.kv_counts, self.num_kv_blocks)
        return listed | self._full_rows()[..., None]

    def transpose(self) -> BlockMask:
        """The mask seen from the keys: for every key/value block, the query blocks that read it."""
        return BlockMask.from_dense(
            self.to_dense().swapaxes(-1, -2),
            block_q=self.block_kv,
            block_kv=self.block_q,
            q_lengths=self.kv_lengths,
            kv_lengths=self.q_lengths,
        )

    def density(self, *, per_head: bool = False) -> jax.Array:
        """Kept token pairs / all token pairs, on real tokens: float32, scalar or [H|1]."""
        xp: Any = _namespace(self)
        q_lengths = _or_blocks(self.q_lengths, self.num_q_blocks, self.block_q)
        kv_lengths = _or_blocks(self.kv_lengths, self.num_kv_blocks, self.block_kv)
        q_lengths, kv_lengths = (x.astype(np.float32) for x in (q_lengths, kv_lengths))
        slots = np.arange(self.capacity, dtype=np.int32).reshape(1, 1, 1, -1)
        listed = slots < self.kv_counts[..., None]
        indices = xp.where(listed, self.kv_indices, 0)
        sizes = xp.take_along_axis(kv_lengths[:, :, None], indices, axis=-1)
        row = xp.where(listed, sizes, np.float32(0)).sum(-1)
        total = kv_lengths.sum(-1, keepdims=True)
        kept = (xp.where(self._full_rows(), total, row) * q_lengths).sum(-1)
        kept, pairs = xp.broadcast_arrays(kept, total[..., 0] * q_lengths.sum(-1))
        axes = 0 if per_head else (0, 1)
        return kept.sum(axes) / xp.maximum(pairs.sum(axes), np.float32(1))

    @staticmethod
    def concat_heads(
        masks: Sequence[BlockMask], num_heads: Sequence[int] | None = None
    ) -> BlockMask:
        """Masks of several groups of heads as one, so that one launch serves them all.

        Args:
          masks: equal block sizes and block counts; capacities may differ.
          num_heads: heads that each mask stands for. By default its own, 1 if it broadcasts.
        """
        first = masks[0]
        for mask in masks:
            if _geometry(mask) != _geometry(first):
                raise ValueError(
                    f"masks of block size and count {_geometry(first)} and {_geometry(mask)} "
                    "cannot be merged; give all heads the same blocks"
                )
        heads = num_heads or [mask.batch_and_heads[1] for mask in masks]
        batch = np.broadcast_shapes(*(mask.batch_and_heads[:1] for mask in masks))[0]
        capacity = max(mask.capacity for mask in masks)
        xp = np if all(_namespace(mask) is np for mask in masks) else jnp

        def merge(arrays):
            whole = zip(arrays, heads, strict=True)
            parts = [xp.broadcast_to(a, (batch, n, *a.shape[2:])) for a, n in whole]
            return xp.concatenate(parts, axis=1)

        def merge_lengths(name, count, block):
            lengths = [getattr(mask, name) for mask in masks]
            whole = [_or_blocks(a, count, block) for a in lengths]
            return None if all(a is None for a in lengths) else merge(whole)

        def widen(mask):
            return xp.pad(mask.kv_indices, [(0, 0)] * 3 + [(0, capacity - mask.capacity)])

        return dataclasses.replace(
            first,
            kv_indices=merge([widen(mask) for mask in masks]),
            kv_counts=merge([mask.kv_counts for mask in masks]),
            q_lengths=merge_lengths("q_lengths", first.num_q_blocks, first.block_q),
            kv_lengths=merge_lengths("kv_lengths", first.num_kv_blocks, first.block_kv),
        )

    def take_heads(self, heads: Sequence[int] | ArrayLike) -> BlockMask:
        """The mask of these heads, in this order; `heads` may be traced. Axes of size 1 stay."""
        traced = isinstance(heads, jax.core.Tracer)
        heads, xp = (heads, jnp) if traced else (np.asarray(heads), _namespace(self))
        return jax.tree.map(lambda a: a if a.shape[1] == 1 else xp.take(a, heads, axis=1), self)

    def real_queries(self, length: int) -> jax.Array | None:
        """Bool [B|1, H|1, length]: query tokens that are not padding; None if all are real."""
        return _padding.real_tokens(self.q_lengths, self.block_q, length)

    def real_keys(self, length: int) -> jax.Array | None:
        """Bool [B|1, H|1, length]: key tokens that are not padding; None if all are real."""
        return _padding.real_tokens(self.kv_lengths, self.block_kv, length)

    def draw(self, *, batch: int = 0, head: int = 0, width: int = 64) -> str:
        """Picture of one head in characters: `#` kept, `.` not, `+` some of a shrunken cell."""
        keep = np.asarray(self.to_dense())
        row = min(batch, keep.shape[0] - 1), min(head, keep.shape[1] - 1)
        return _block_lists.draw(keep[row], width)

    def _full_rows(self):
        return self.kv_counts == np.int32(self.num_kv_blocks)


def _check_lengths(name, lengths, count, block):
    if lengths is None:
        return
    if lengths.ndim != 3 or lengths.shape[-1] != count or lengths.dtype != np.int32:
        raise ValueError(
            f"{name} is {lengths.dtype} {lengths.shape}; it must be int32 [B|1, H|1, {count}], one "
            "entry for each block"
        )
    if isinstance(lengths, np.ndarray) and not (0 <= lengths.min() and lengths.max() <= block):
        raise ValueError(
            f"{name} spans {lengths.min()}..{lengths.max()}; a block of {block} tokens holds 0 to "
            f"{block} real ones"
        )


def _as_lengths(lengths):
    if lengths is None:
        return None
    lengths = lengths if isinstance(lengths, jax.Array) else np.asarray(lengths, np.int32)
    return lengths.reshape(1, 1, -1) if lengths.ndim == 1 else lengths


def _or_blocks(lengths, count, block):
    return np.full((1, 1, count), block, np.int32) if lengths is None else lengths


def _geometry(mask):
    return mask.num_q_blocks, mask.num_kv_blocks, mask.block_q, mask.block_kv


def _namespace(mask):
    arrays = (mask.kv_indices, mask.kv_counts, mask.q_lengths, mask.kv_lengths)
    return np if all(a is None or isinstance(a, np.ndarray) for a in arrays) else jnp
