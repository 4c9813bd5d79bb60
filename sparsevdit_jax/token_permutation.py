"""TokenPermutation: a block order for each head, which may depend on traced values."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels._pytree import pytree
from sparsevdit_jax.token_order import gather_indices, slot_positions


@pytree
class TokenPermutation:
    """A block order for each head: per-head gather indices, which may be traced.

    Attributes:
      gather: int32 [H, slots], token of the raster sequence in each slot; L marks padding.
      positions: int32 [H, L], slot of each token.
    """

    gather: jax.Array
    positions: jax.Array

    @classmethod
    def choose(cls, orders, which) -> "TokenPermutation":
        """Head h has order ``orders[which[h]]``.

        Args:
          orders: TokenOrders of one grid, block size and number of blocks.
          which: int32 [H], concrete or traced.
        """
        geometry = {(o.grid, o.block, o.num_blocks) for o in orders}
        if len(geometry) > 1:
            raise ValueError(f"orders must share grid, block and number of blocks, got {geometry}")
        slots, padding = max(o.num_slots for o in orders), orders[0].grid.num_tokens
        tails = [(0, slots - o.num_slots) for o in orders]
        gather = np.stack(
            [
                np.pad(gather_indices(o), tail, constant_values=padding)
                for o, tail in zip(orders, tails, strict=True)
            ]
        )
        positions = np.stack([slot_positions(o) for o in orders])
        # The barrier keeps XLA from folding a concrete choice into constants of [H, slots].
        which = jax.lax.optimization_barrier(jnp.asarray(which))
        return cls(jnp.asarray(gather)[which], jnp.asarray(positions)[which])

    def apply(self, x, axis: int = 1):
        """Block order of each head; `x` is [B, L, H, D] (axis 1) or [B, H, L] (axis 2)."""
        return _take_by_head(x, self.gather, axis)

    def undo(self, x, axis: int = 1):
        """The inverse of `apply`."""
        return _take_by_head(x, self.positions, axis)


def shared_lengths(orders, which, text_lengths=None) -> Any:
    """Real tokens of each block, int32 [B|1, H|1, N], or None if all blocks are full.

    Head h has order ``orders[which[h]]``.

    Args:
      orders: TokenOrders of one grid, block size and number of blocks.
      which: int32 [H], concrete or traced.
      text_lengths: int32 [B] or None.
    """
    text_lengths = text_lengths if orders[0].grid.text_len else None
    if all(np.array_equal(o.video_lengths, orders[0].video_lengths) for o in orders):
        return orders[0].mask_lengths(text_lengths)
    lengths = [o.lengths(text_lengths) for o in orders]
    xp = jnp if any(isinstance(x, jax.Array) for x in (*lengths, which)) else np
    return xp.take(xp.concatenate(lengths, axis=1), which, axis=1)


def _take_by_head(x, index, axis):
    index = index[None, :, :, None].swapaxes(1, 2) if x.ndim == 4 else index[None]
    return jnp.take_along_axis(x, index, axis=axis, mode="fill", fill_value=0)
