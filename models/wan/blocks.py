"""Wan's transformer block: self-attention over the video, cross-attention to the prompt (and image), MLP."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from sparsevdit_jax.ops import attend_across

from .. import layers
from ..attention import Attention, LayerAttention, Projections
from ..combine import COMBINE
from ..layers import modulate
from ..rope import Rope
from .config import WanConfig

QK_NORM = "rms_norm_across_heads"


class CrossAttention(Projections):
    """Attention of the video to the text and, with a softmax of its own, to the image; their outputs add up."""

    def __init__(self, config: WanConfig, *, dtype, rngs: nnx.Rngs):
        super().__init__(
            config.dim, config.num_heads, qk_norm=QK_NORM, eps=config.eps, dtype=dtype, rngs=rngs
        )
        added = config.added_kv_proj_dim
        if added is not None:
            self.add_k_proj = layers.Linear(added, config.dim, dtype=dtype, rngs=rngs)
            self.add_v_proj = layers.Linear(added, config.dim, dtype=dtype, rngs=rngs)
            self.norm_added_k = layers.RMSNorm(config.dim, eps=config.eps, dtype=dtype)

    def __call__(
        self,
        x: jax.Array,
        text: jax.Array,
        image: jax.Array | None,
        *,
        implementation: str | None = None,
    ) -> jax.Array:
        """x [B, L, dim], text [B, N, dim], image [B, M, dim] or None, to [B, L, dim]."""
        q = self.heads(self.to_q(x), self.norm_q)
        attend = functools.partial(attend_across, q, implementation=implementation)
        out = attend(self.heads(self.to_k(text), self.norm_k), self.heads(self.to_v(text)))
        if image is not None:
            k = self.heads(self.add_k_proj(image), self.norm_added_k)
            out += attend(k, self.heads(self.add_v_proj(image)))
        return self.output(out.reshape(x.shape))


class Block(nnx.Module):
    """Modulated self-attention, cross-attention, modulated feed-forward part (diffusers' WanTransformerBlock)."""

    def __init__(self, config: WanConfig, *, dtype, rngs: nnx.Rngs):
        dim, eps = config.dim, config.eps
        self.norm1 = layers.LayerNorm(dim, eps=eps, affine=False)
        combine = None if config.combine is None else COMBINE[config.combine].make
        self.attn1 = Attention(
            dim,
            config.num_heads,
            qk_norm=QK_NORM,
            eps=eps,
            dtype=dtype,
            combine=combine and combine(dim, config.num_heads, dtype=dtype, rngs=rngs),
            rngs=rngs,
        )
        # norm2 is float32 in diffusers (_keep_in_fp32_modules)
        self.norm2 = layers.LayerNorm(dim, eps=eps) if config.cross_attn_norm else None
        self.attn2 = CrossAttention(config, dtype=dtype, rngs=rngs)
        self.norm3 = layers.LayerNorm(dim, eps=eps, affine=False)
        self.ffn = layers.MLP(dim, config.ffn_dim, dim, layers.gelu_tanh, dtype=dtype, rngs=rngs)
        self.scale_shift_table = modulation_table(6, dim, rngs)

    def __call__(
        self,
        x: jax.Array,
        modulation: jax.Array,
        text: jax.Array,
        image: jax.Array | None,
        rope: Rope,
        *,
        layer: LayerAttention,
    ) -> tuple[jax.Array, Any]:
        """One block.

        Args:
          x: [B, L, dim], video tokens in raster order.
          modulation: [B, L or 1, 6, dim], shared by all blocks; this one adds its own table.
          text: [B, N, dim].
          image: [B, M, dim] or None.
          rope: cosines and sines of the tokens (`rope_table`).
          layer: what self-attention attends by.

        Returns:
          x of the same shape and dtype, and the pattern's new state.
        """
        dtype = x.dtype
        parts = modulation_parts(self.scale_shift_table, modulation)
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = parts
        h = modulate(self.norm1(x.astype(jnp.float32)), shift, scale).astype(dtype)
        h, state = self.attn1(h, layer, rope=rope)
        x = (x.astype(jnp.float32) + h.astype(jnp.float32) * gate).astype(dtype)
        h = x if self.norm2 is None else self.norm2(x)
        x = x + self.attn2(h, text, image, implementation=layer.ctx.kernel.implementation)
        h = modulate(self.norm3(x.astype(jnp.float32)), ffn_shift, ffn_scale).astype(dtype)
        h = self.ffn(h)
        return (x.astype(jnp.float32) + h.astype(jnp.float32) * ffn_gate).astype(dtype), state


def modulation_table(parts: int, dim: int, rngs: nnx.Rngs) -> nnx.Param:
    """A table [1, parts, dim], float32 in diffusers (_keep_in_fp32_modules)."""
    return nnx.Param(jax.random.normal(rngs.params(), (1, parts, dim), jnp.float32) * dim**-0.5)


def modulation_parts(table: nnx.Param, embedding: jax.Array) -> list[jax.Array]:
    """Float32 vectors [B, L or 1, dim]: the rows of `modulation_table` plus [B, L or 1, parts or 1, dim]."""
    total = table[...].astype(jnp.float32)[None] + embedding.astype(jnp.float32)
    return [total[:, :, i] for i in range(total.shape[2])]
