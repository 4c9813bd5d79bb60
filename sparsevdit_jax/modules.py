"""SparseSelfAttention: a drop-in layer for Flax NNX models. The only file here with flax."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from sparsevdit_jax.context import StepContext
from sparsevdit_jax.engine import attend
from sparsevdit_jax.pattern import AttentionPattern


class SparseSelfAttention(nnx.Module):
    """Multi-head self-attention whose core is any pattern: projections, QK norm, RoPE, attention,
    projection.

    It holds parameters only. The pattern and its state are arguments, so one set of weights runs
    dense or sparse.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        qk_norm: bool = True,
        use_bias: bool = True,
        dtype: jax.typing.DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        """Makes the layer.

        Args:
          dim: channels of the tokens, a multiple of `num_heads`.
          num_heads: H.
          qk_norm: RMS-normalise q and k of each head.
          use_bias: projections have biases.
          dtype: of the computation; parameters are float32. None: that of the input.
          rngs: source of the initial weights.
        """
        if dim % num_heads:
            raise ValueError(f"dim={dim} must be a multiple of num_heads={num_heads}")
        self.num_heads = num_heads
        self.qkv = nnx.Linear(dim, 3 * dim, use_bias=use_bias, dtype=dtype, rngs=rngs)
        self.out = nnx.Linear(dim, dim, use_bias=use_bias, dtype=dtype, rngs=rngs)
        head_dim = dim // num_heads
        self.q_norm = nnx.RMSNorm(head_dim, dtype=dtype, rngs=rngs) if qk_norm else None
        self.k_norm = nnx.RMSNorm(head_dim, dtype=dtype, rngs=rngs) if qk_norm else None

    def __call__(
        self,
        x: jax.Array,
        pattern: AttentionPattern,
        state,
        ctx: StepContext,
        *,
        rope: Callable[[jax.Array], jax.Array] | None = None,
    ):
        """(y, state) for tokens x [B, L, dim] in raster order; y as x.

        Args:
          x: tokens.
          pattern: how the heads attend; ``state = pattern.init(...)`` beforehand.
          state: the pattern's state.
          ctx: what this step is for.
          rope: rotates q and k [B, L, H, D] by position, before any reordering. None: no positions.
        """
        batch, length, _ = x.shape
        q, k, v = jnp.split(self.qkv(x).reshape(batch, length, 3 * self.num_heads, -1), 3, axis=2)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if rope is not None:
            q, k = rope(q), rope(k)
        attended = attend(pattern, q, k, v, state, ctx)
        return self.out(attended.out.reshape(batch, length, -1)), attended.state
