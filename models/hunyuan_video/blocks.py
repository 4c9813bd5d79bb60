"""HunyuanVideo's two kinds of transformer block: joint attention over [video, text], text last.

In a dual-stream block the video and the text have weights of their own and share the attention; in a
single-stream block they are one sequence, and attention and feed-forward run side by side.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from .. import layers
from ..attention import Attention, JointAttention, LayerAttention
from ..layers import gelu_tanh
from ..rope import Rope
from .config import HunyuanVideoConfig

EPS = 1e-6  # of every norm of this model


class Modulation(nnx.Module):
    """`parts` vectors for every batch row from the conditioning vector: linear(silu(vector)), cut up.

    Source: the linear layers of diffusers' AdaLayerNormZero (6 parts), AdaLayerNormZeroSingle (3)
    and HunyuanVideoAdaNorm (2).
    """

    def __init__(self, dim: int, parts: int, *, dtype, rngs: nnx.Rngs):
        self.parts = parts
        self.linear = layers.Linear(dim, parts * dim, dtype=dtype, rngs=rngs)

    def __call__(self, vector: jax.Array) -> list[jax.Array]:
        """[B, dim] to `parts` arrays [B, 1, dim]."""
        return jnp.split(self.linear(layers.silu(vector))[:, None], self.parts, -1)


def modulated_norm(x: jax.Array, shift: jax.Array, scale: jax.Array) -> jax.Array:
    """layer_norm(x) * (1 + scale) + shift; the norm is float32, the rest has the dtype of `x`."""
    return layers.modulate(layers.layer_norm(x, eps=EPS).astype(x.dtype), shift, scale)


class DualStreamBlock(nnx.Module):
    """Modulated joint attention, then a modulated feed-forward layer for video and for text.

    Source: diffusers' HunyuanVideoTransformerBlock; each modulation is shift, scale and gate of the
    attention, then of the feed-forward layer.
    """

    def __init__(self, config: HunyuanVideoConfig, *, dtype, rngs: nnx.Rngs):
        dim, hidden = config.dim, int(config.dim * config.mlp_ratio)
        self.norm1 = Modulation(dim, 6, dtype=dtype, rngs=rngs)
        self.norm1_context = Modulation(dim, 6, dtype=dtype, rngs=rngs)
        self.attn = JointAttention(dim, config.num_heads, eps=EPS, dtype=dtype, rngs=rngs)
        self.ff = layers.MLP(dim, hidden, dim, gelu_tanh, dtype=dtype, rngs=rngs)
        self.ff_context = layers.MLP(dim, hidden, dim, gelu_tanh, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        streams: tuple[jax.Array, jax.Array],
        vector: jax.Array,
        rope: Rope,
        *,
        layer: LayerAttention,
    ) -> tuple[tuple[jax.Array, jax.Array], Any]:
        """One block.

        Args:
          streams: video [B, Lv, dim] in raster order and text [B, Lt, dim].
          vector: the conditioning vector [B, dim].
          rope: cosines and sines of the video tokens (`rope_table`).
          layer: what the block attends by.

        Returns:
          Both streams, and the pattern's new state. Text rows beyond `layer.ctx.text_lengths` hold nothing
          that means something: their attention is zero here and something else in diffusers.
        """
        video, text = streams
        shift, scale, gate, ff_shift, ff_scale, ff_gate = self.norm1(vector)
        t_shift, t_scale, t_gate, t_ff_shift, t_ff_scale, t_ff_gate = self.norm1_context(vector)
        video_out, text_out, state = self.attn(
            modulated_norm(video, shift, scale),
            modulated_norm(text, t_shift, t_scale),
            layer,
            rope=rope,
        )
        video = video + gate * video_out
        text = text + t_gate * text_out
        video = video + ff_gate * self.ff(modulated_norm(video, ff_shift, ff_scale))
        text = text + t_ff_gate * self.ff_context(modulated_norm(text, t_ff_shift, t_ff_scale))
        return (video, text), state


class SingleStreamBlock(nnx.Module):
    """Attention and feed-forward side by side on one modulated input, joined by one projection.

    Source: diffusers' HunyuanVideoSingleTransformerBlock, which takes the sequence apart and joins it
    again in every block; here it stays one array.
    """

    def __init__(self, config: HunyuanVideoConfig, *, dtype, rngs: nnx.Rngs):
        dim, hidden = config.dim, int(config.dim * config.mlp_ratio)
        self.norm = Modulation(dim, 3, dtype=dtype, rngs=rngs)
        self.attn = Attention(dim, config.num_heads, eps=EPS, out=False, dtype=dtype, rngs=rngs)
        self.proj_mlp = layers.Linear(dim, hidden, dtype=dtype, rngs=rngs)
        self.proj_out = layers.Linear(dim + hidden, dim, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        x: jax.Array,
        vector: jax.Array,
        rope: Rope,
        *,
        layer: LayerAttention,
    ) -> tuple[jax.Array, Any]:
        """One block: x [B, L, dim], video and then text; the rest as in `DualStreamBlock`."""
        shift, scale, gate = self.norm(vector)
        h = modulated_norm(x, shift, scale)
        out, state = self.attn(h, layer, rope=rope)
        joined = jnp.concatenate([out, gelu_tanh(self.proj_mlp(h))], -1)
        return x + gate * self.proj_out(joined), state


class OutputNorm(nnx.Module):
    """The last modulated norm, with the scale first, unlike the blocks' (diffusers' AdaLayerNormContinuous)."""

    def __init__(self, dim: int, *, dtype, rngs: nnx.Rngs):
        self.linear = layers.Linear(dim, 2 * dim, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, vector: jax.Array) -> jax.Array:
        """x [B, L, dim], vector [B, dim] to [B, L, dim]."""
        scale, shift = jnp.split(self.linear(layers.silu(vector))[:, None], 2, -1)
        return modulated_norm(x, shift, scale)
