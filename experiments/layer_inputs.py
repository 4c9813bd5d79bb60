"""The queries, keys and values that each layer of a TinyVideoDiT sees in one denoising step."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from models.tiny import TinyVideoDiT
from sparsevdit_jax import Attended, AttentionPattern, Phase, SparseAttention, StepContext
from sparsevdit_jax.ops import attend_dense


@dataclasses.dataclass(frozen=True)
class Tap(AttentionPattern):
    """Dense attention whose state is the q, k, v that it was given: what a layer's heads really see."""

    sees_dense_steps = True

    def init(self, grid, *, batch, num_heads, head_dim):
        """Zeros of the shapes to come."""
        shape = (batch, num_heads, grid.num_tokens, head_dim)
        return tuple(jnp.zeros(shape, jnp.float32) for _ in range(3))

    def compute(self, q, k, v, state, ctx):
        """Dense attention; the state becomes (q, k, v), [B, H, L, D]."""
        del state
        seen = tuple(x.astype(jnp.float32).swapaxes(1, 2) for x in (q, k, v))
        return Attended(*attend_dense(q, k, v, ctx), seen)


@functools.partial(jax.jit, static_argnames="attention")
def _tapped(model, x, t, label, states, ctx, *, attention):
    return model(x, t, label, attention=attention, states=states, ctx=ctx).states


def layer_inputs(
    model: TinyVideoDiT, x, t: float, label
) -> list[tuple[jax.Array, jax.Array, jax.Array]]:
    """q, k, v [B, L, H, D] of every layer when `model` denoises x [B, F, Y, X, C] at time t."""
    config, grid = model.config, model.grid(x.shape)
    attention = SparseAttention((Tap(),) * config.num_layers)
    states = attention.init(
        grid, batch=len(x), num_heads=config.num_heads, head_dim=config.head_dim
    )
    ctx = StepContext(grid, Phase.REUSE)
    times = jnp.full((len(x),), t, jnp.float32)
    label = jnp.asarray(label, jnp.int32)
    layers = _tapped(model, x, times, label, states, ctx, attention=attention)
    dtype = model.blocks[0].attn.operands
    return [tuple(a.swapaxes(1, 2).astype(dtype) for a in layer) for layer in layers]
