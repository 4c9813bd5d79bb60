"""Block mass that skips parts of blocks known to hold only padding.

A block is filled from its start, so at the border of a video a tile of 384 tokens may hold 120. Parts of blocks that no
batch item and no head fills are left out of the arrays, and get the mass that they would have had: none.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_PART = 128  # tokens: finer parts would save little
_LEAST = 64


def over_real_parts(
    mass: Callable[..., jax.Array],
    q: jax.Array,
    k: jax.Array,
    lse: jax.Array,
    *,
    block_q: int,
    block_kv: int,
    q_lengths: Any,
    kv_lengths: Any,
) -> jax.Array:
    """mass(q, k, lse, block_q=, block_kv=, q_lengths=, kv_lengths=) of real parts, summed to blocks.

    Args:
      mass: computes the mass of every block pair of what it is given.
      q: [B, Lq, H, D].
      k: [B, Lk, H, D].
      lse: float32 [B, H, Lq].
      block_q: tokens in a query block.
      block_kv: tokens in a key block.
      q_lengths: as of `api.block_mass`. Nothing is left out of a side whose lengths are traced.
      kv_lengths: the same of keys.

    Returns:
      float32 [B, H, Nq, Nk].
    """
    queries = _Side.of(q_lengths, q.shape[1], block_q)
    keys = _Side.of(kv_lengths, k.shape[1], block_kv)
    sums = mass(
        queries.take(q, 1), keys.take(k, 1), queries.take(lse, 2),
        block_q=queries.part, block_kv=keys.part,
        q_lengths=queries.lengths, kv_lengths=keys.lengths,
    )  # fmt: skip
    return keys.to_blocks(queries.to_blocks(sums, 2), 3)


def binary_shift(lse: jax.Array, real_q: jax.Array | None) -> jax.Array:
    """`lse` in base 2, +inf for a query without mass: float32 [B, H, Lq]."""
    live = lse > -jnp.inf if real_q is None else real_q & (lse > -jnp.inf)
    return jnp.where(live, lse * np.float32(math.log2(math.e)), jnp.inf)


class _Side:
    """The parts of one side's blocks of which something is real; `real` is None where all are kept."""

    def __init__(self, part, per_block, lengths, real, num_parts):
        self.part, self.per_block, self.lengths = part, per_block, lengths
        self.real, self.num_parts = real, num_parts

    @staticmethod
    def of(lengths, length, block):
        whole = _Side(block, 1, lengths, None, -(-length // block))
        if not isinstance(lengths, np.ndarray):
            return whole
        part = math.gcd(block, _PART)
        part = part if part >= _LEAST else block
        room = np.clip(length - np.arange(lengths.shape[-1]) * block, 0, block)
        sizes = np.minimum(lengths, room)[..., None] - np.arange(0, block, part)
        sizes = np.clip(sizes, 0, part).reshape(*lengths.shape[:2], -1).astype(np.int32)
        real = np.flatnonzero((sizes > 0).any((0, 1)))
        if real.size == sizes.shape[-1]:
            return whole
        real = real if real.size else np.zeros(1, int)  # an array of size 0 has no tiles
        return _Side(part, block // part, sizes[..., real], real, sizes.shape[-1])

    def take(self, x, axis):
        """The kept parts of the tokens of x, one after another."""
        if self.real is None:
            return x
        before, after = x.shape[:axis], x.shape[axis + 1 :]
        missing = self.num_parts * self.part - x.shape[axis]
        x = jnp.pad(x, [(0, missing if i == axis else 0) for i in range(x.ndim)])
        x = jnp.take(x.reshape(*before, self.num_parts, self.part, *after), self.real, axis=axis)
        return x.reshape(*before, -1, *after)

    def to_blocks(self, sums, axis):
        """Sums of kept parts as sums of blocks, along an axis."""
        if self.real is None:
            return sums
        at = (slice(None),) * axis
        shape = [*sums.shape[:axis], self.num_parts, *sums.shape[axis + 1 :]]
        sums = jnp.zeros(shape, sums.dtype).at[(*at, self.real)].set(sums)
        shape[axis : axis + 1] = self.num_parts // self.per_block, self.per_block
        return sums.reshape(shape).sum(axis + 1)
