"""Wan's transformer block: self-attention over the video, cross-attention to the prompt (and image), MLP."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from sparsevdit_jax.ops import attend_across

from .. import layers
from ..attention import LayerAttention
from ..layers import modulate, split_heads
from ..rope import Rope, apply_rope
from .config import WanConfig


class _Attention(nnx.Module):
    """The parameters that self- and cross-attention have in common; q and k are normed over all heads at once."""

    def __init__(self, config: WanConfig, *, dtype, rngs: nnx.Rngs):
        dim = config.dim
        self.num_heads = config.num_heads
        self.to_q = layers.Linear(dim, dim, dtype=dtype, rngs=rngs)
        self.to_k = layers.Linear(dim, dim, dtype=dtype, rngs=rngs)
        self.to_v = layers.Linear(dim, dim, dtype=dtype, rngs=rngs)
        self.to_out = layers.Linear(dim, dim, dtype=dtype, rngs=rngs)
        self.norm_q = layers.RMSNorm(dim, eps=config.eps, dtype=dtype)
        self.norm_k = layers.RMSNorm(dim, eps=config.eps, dtype=dtype)


class SelfAttention(_Attention):
    """Attention among the video's tokens, by a pattern."""

    def __call__(self, x: jax.Array, rope: Rope, *, layer: LayerAttention) -> tuple[jax.Array, Any]:
        """x [B, L, dim] in raster order to the same, and the pattern's new state."""
        q = apply_rope(split_heads(self.norm_q(self.to_q(x)), self.num_heads), rope)
        k = apply_rope(split_heads(self.norm_k(self.to_k(x)), self.num_heads), rope)
        v = split_heads(self.to_v(x), self.num_heads)
        attended = layer.attend(q, k, v)
        return self.to_out(attended.out.reshape(x.shape)), attended.state


class CrossAttention(_Attention):
    """Attention of the video to the text and, with a softmax of its own, to the image; their outputs add up."""

    def __init__(self, config: WanConfig, *, dtype, rngs: nnx.Rngs):
        super().__init__(config, dtype=dtype, rngs=rngs)
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
        q = split_heads(self.norm_q(self.to_q(x)), self.num_heads)

        def attend(k, v):
            k, v = split_heads(k, self.num_heads), split_heads(v, self.num_heads)
            return attend_across(q, k, v, implementation=implementation)

        out = attend(self.norm_k(self.to_k(text)), self.to_v(text))
        if image is not None:
            out += attend(self.norm_added_k(self.add_k_proj(image)), self.add_v_proj(image))
        return self.to_out(out.reshape(x.shape))


class Block(nnx.Module):
    """Modulated self-attention, cross-attention, modulated feed-forward part (diffusers' WanTransformerBlock)."""

    def __init__(self, config: WanConfig, *, dtype, rngs: nnx.Rngs):
        dim, eps = config.dim, config.eps
        self.norm1 = layers.LayerNorm(dim, eps=eps, affine=False)
        self.attn1 = SelfAttention(config, dtype=dtype, rngs=rngs)
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
        h, state = self.attn1(h, rope, layer=layer)
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
