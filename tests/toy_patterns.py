"""Patterns as a user would write them, each in a few lines; nothing in the library knows of them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from pallas_kernels import BlockMask
from sparsevdit_jax import AttentionPattern, AttentionPlan, TokenOrder, TokenPermutation
from sparsevdit_jax.selection import top_blocks


@dataclasses.dataclass(frozen=True)
class TopK(AttentionPattern):
    """Each block of queries keeps the blocks whose mean key it likes most, chosen at every step."""

    density: float = 0.25
    block: int = 8

    takes_density = True

    def token_order(self, grid):
        return TokenOrder(grid, self.block)

    def plan(self, q, k, state, ctx):
        order = self.token_order(ctx.grid)
        q, k = (order.pool(x, ctx.text_lengths) for x in (q, k))
        scores = jnp.einsum("bihd,bjhd->bhij", q, k)
        return AttentionPlan(top_blocks(scores, self.density, order, ctx), order), state


@dataclasses.dataclass(frozen=True)
class TwoOrders(AttentionPattern):
    """Queries and keys sorted by a channel of their own in every head and row, in blocks of unequal size.

    A query block reads the key blocks of about its rank. The last block of each is ragged.
    """

    block_q: int = 16
    block_kv: int = 8
    width: int = 4

    def plan(self, q, k, state, ctx):
        length = ctx.grid.num_tokens
        q_order, kv_order = (
            TokenPermutation.of(
                jnp.argsort(jax.lax.stop_gradient(x[..., 0]), axis=1)
                .swapaxes(1, 2)
                .astype(np.int32),
                length,
                np.minimum(length - np.arange(0, length, block), block).astype(np.int32)[
                    None, None
                ],
            )
            for x, block in ((q, self.block_q), (k, self.block_kv))
        )
        rows, columns = -(-length // self.block_q), -(-length // self.block_kv)
        centre = np.arange(rows)[:, None] * columns / rows
        keep = np.abs(centre - np.arange(columns)[None]) <= self.width
        mask = BlockMask.from_dense(keep, block_q=self.block_q, block_kv=self.block_kv)
        return AttentionPlan(mask, q_order, kv_order), state


@dataclasses.dataclass(frozen=True)
class WithMean(TopK):
    """`TopK`, and beside it the mean of all values: a side branch to be combined by learned weights."""

    def side(self, q, k, v, plan, ctx):
        del q, k, plan, ctx
        return jnp.broadcast_to(v.mean(1, keepdims=True), v.shape)


@dataclasses.dataclass(frozen=True)
class WithLinear(TopK):
    """`TopK`, and linear attention beside it (as SLA has it, without its choice of blocks)."""

    def side(self, q, k, v, plan, ctx):
        q, k = (jax.nn.softmax(x, axis=-1) for x in (q, k))
        total = jnp.einsum("bqhd,bhd->bqh", q, k.sum(1))
        return jnp.einsum("bqhd,bkhd,bkhe->bqhe", q, k, v) / total[..., None]


class Gate(nnx.Module):
    """main + gate(hidden) * side, with a gate for each channel (as VSA has it)."""

    def __init__(self, dim, *, rngs):
        self.to_gate = nnx.Linear(dim, dim, use_bias=False, rngs=rngs)

    def __call__(self, main, side, hidden):
        return main + self.to_gate(hidden).reshape(main.shape) * side


class Project(nnx.Module):
    """main + projection(side), one for all heads (as SLA has it)."""

    def __init__(self, dim, *, rngs, num_heads=2):
        size = dim // num_heads
        self.proj = nnx.Linear(size, size, use_bias=False, rngs=rngs)

    def __call__(self, main, side, hidden):
        return main + self.proj(side)
