"""Scores of block pairs, from which a search chooses."""

import jax

from pallas_kernels import block_mass
from sparsevdit_jax.schedule import StepContext
from sparsevdit_jax.token_order import TokenOrder


def attention_mass(
    q: jax.Array, k: jax.Array, lse: jax.Array, order: TokenOrder, ctx: StepContext
) -> jax.Array:
    """Attention mass of every block pair: f32 [B, H, N, N], blocks as in `order`.

    A row sums to the number of its real queries if `lse` is that of the same q and k. With the LSE
    of an earlier step it is AdaSpa's estimate (arXiv 2502.21079).

    Args:
      q: [B, L, H, D], raster order.
      k: as q.
      lse: float32 [B, H, L], raster order.
      order: block order.
      ctx: the step's grid, text lengths and scale.
    """
    lengths = order.mask_lengths(ctx.text_lengths if ctx.grid.text_len else None)
    return block_mass(
        order.apply(q),
        order.apply(k),
        order.apply(lse, axis=2),
        block_q=order.block,
        block_kv=order.block,
        scale=ctx.scale,
        q_lengths=lengths,
        kv_lengths=lengths,
    )
