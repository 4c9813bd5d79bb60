"""Blocks of CogVideoX: joint attention and MLP over [text, video] tokens that share all weights.

Text stands first. Text and video differ only in their modulations and in that positions rotate video alone.
The sequence stays one array [B, text + video, channels]; diffusers cuts and joins it in every block.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from .. import layers
from ..attention import Attention, LayerAttention
from ..layers import gelu_tanh, modulate, silu
from ..rope import Rope
from .config import CogVideoXConfig


class ModulatedNorm(nnx.Module):
    """Layer norm with a shift, scale and gate from the time, apart for video and text (CogVideoXLayerNormZero)."""

    def __init__(self, config: CogVideoXConfig, *, dtype, rngs: nnx.Rngs):
        dim = config.dim
        self.linear = layers.Linear(config.time_embed_dim, 6 * dim, dtype=dtype, rngs=rngs)
        self.norm = layers.LayerNorm(
            dim, eps=config.norm_eps, affine=config.norm_elementwise_affine, dtype=dtype
        )

    def __call__(
        self, x: jax.Array, vector: jax.Array, text_len: int
    ) -> tuple[jax.Array, jax.Array]:
        """The modulated [B, L, dim] and the gate of what comes of it, of the same shape."""
        is_text = (jnp.arange(x.shape[1]) < text_len)[None, :, None]
        parts = jnp.split(self.linear(silu(vector))[:, None], 6, -1)  # 3 of video, 3 of text
        # A choice per row, which XLA fuses into its use: neither a cut nor a copy of the sequence.
        shift, scale, gate = (
            jnp.where(is_text, text, video)
            for video, text in zip(parts[:3], parts[3:], strict=True)
        )
        return modulate(self.norm(x), shift, scale), gate


class Block(nnx.Module):
    """One transformer block (diffusers' CogVideoXBlock)."""

    def __init__(self, config: CogVideoXConfig, *, dtype, rngs: nnx.Rngs):
        self.norm1 = ModulatedNorm(config, dtype=dtype, rngs=rngs)
        self.attn1 = Attention(
            config.dim,
            config.num_heads,
            qk_norm="layer_norm",
            bias=config.attention_bias,
            dtype=dtype,
            rngs=rngs,
        )
        self.norm2 = ModulatedNorm(config, dtype=dtype, rngs=rngs)
        dim = config.dim
        self.ff = layers.MLP(dim, 4 * dim, dim, gelu_tanh, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        x: jax.Array,
        vector: jax.Array,
        rope: Rope | None,
        *,
        layer: LayerAttention,
    ) -> tuple[jax.Array, Any]:
        """[B, L, dim], text first, to the same; and the pattern's new state."""
        text_len = layer.ctx.grid.text_len
        h, gate = self.norm1(x, vector, text_len)
        h, state = self.attn1(h, layer, rope=rope)
        x = x + gate * h
        h, gate = self.norm2(x, vector, text_len)
        return x + gate * self.ff(h), state


class OutputNorm(nnx.Module):
    """Layer norm with a shift and a scale from the time (diffusers' AdaLayerNorm, in this order)."""

    def __init__(self, config: CogVideoXConfig, *, dtype, rngs: nnx.Rngs):
        dim = config.dim
        self.linear = layers.Linear(config.time_embed_dim, 2 * dim, dtype=dtype, rngs=rngs)
        self.norm = layers.LayerNorm(
            dim, eps=config.norm_eps, affine=config.norm_elementwise_affine, dtype=dtype
        )

    def __call__(self, x: jax.Array, vector: jax.Array) -> jax.Array:
        """[B, L, dim] to the same."""
        shift, scale = jnp.split(self.linear(silu(vector))[:, None], 2, -1)
        return modulate(self.norm(x), shift, scale)
