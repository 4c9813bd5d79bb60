"""TokenPermutation: a block order for each head or row, which may depend on traced values."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels._pytree import pytree
from pallas_kernels.block_mask import ArrayLike
from sparsevdit_jax.token_order import TokenOrder, gather_indices, slot_positions


@pytree
class TokenPermutation:
    """Block orders of heads and batch rows as data: gather indices, which may be traced.

    Attributes:
      gather: int32 [B|1, H|1, slots], token of the raster sequence in each slot; L marks padding.
      positions: int32 [B|1, H|1, L], slot of each token.
      lengths: real tokens of each block, int32 [B|1, H|1, N]; None: every block is full.
    """

    gather: ArrayLike
    positions: ArrayLike
    lengths: Any = None

    @classmethod
    def of(cls, gather: jax.Array, num_tokens: int, lengths: Any = None) -> "TokenPermutation":
        """The permutation that puts token ``gather[..., s]`` into slot s.

        Args:
          gather: int32 [B|1, H|1, slots]; every token once, and `num_tokens` where a slot is padding.
          num_tokens: L of the raster sequence.
          lengths: real tokens of each block, int32 [B|1, H|1, N]. Padding stands at the end of a
            block. None: there is none.
        """
        positions = jnp.argsort(gather, axis=-1)[..., :num_tokens].astype(np.int32)
        return cls(gather, positions, lengths)

    @classmethod
    def choose(cls, orders, which, text_lengths=None) -> "TokenPermutation":
        """Head h has order ``orders[which[h]]``, or of each batch row b ``orders[which[b, h]]``.

        Args:
          orders: TokenOrders of one grid, block size and number of blocks.
          which: int32 [H] or [B, H], concrete or traced.
          text_lengths: real text tokens of each row, int32 [B]; None: all of the room.
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
        which = which if which.ndim == 2 else which[None]
        lengths = _lengths(orders, which, text_lengths)
        # The barrier keeps XLA from folding a concrete choice into constants of [H, slots].
        which = jax.lax.optimization_barrier(jnp.asarray(which))
        return cls(jnp.asarray(gather)[which], jnp.asarray(positions)[which], lengths)

    def mask_lengths(self, text_lengths=None) -> Any:
        """`lengths`: those of the text are known where it was made."""
        del text_lengths
        return self.lengths

    def apply(self, x, axis: int = 1):
        """Block order of each head; `x` is [B, L, H, D] (axis 1) or [B, H, L] (axis 2)."""
        return _take_by_head(x, self.gather, axis)

    def undo(self, x, axis: int = 1):
        """The inverse of `apply`."""
        return _take_by_head(x, self.positions, axis)


def choose_order(orders, which, text_lengths=None) -> TokenOrder | TokenPermutation:
    """The order of heads of which head h has ``orders[which[h]]``: one for all where there is one."""
    if len(orders) == 1:
        return orders[0]
    return TokenPermutation.choose(orders, which, text_lengths)


def _lengths(orders, which, text_lengths) -> Any:
    """Real tokens of each block, int32 [B|1, H|1, N], or None if all blocks are full."""
    text_lengths = text_lengths if orders[0].grid.text_len else None
    if all(np.array_equal(o.lengths(), orders[0].lengths()) for o in orders):
        return orders[0].mask_lengths(text_lengths)
    lengths = [o.lengths(text_lengths) for o in orders]
    xp: Any = jnp if any(isinstance(x, jax.Array) for x in (*lengths, which)) else np
    return xp.take_along_axis(xp.concatenate(lengths, axis=1), which[..., None], axis=1)


def _take_by_head(x, index, axis):
    index = index[..., None].swapaxes(1, 2) if x.ndim == 4 else index
    return jnp.take_along_axis(x, index, axis=axis, mode="fill", fill_value=0)
