"""What enters the blocks of CogVideoX: tokens of latents and text, and the time embedding."""

import jax
import jax.numpy as jnp
from flax import nnx

from .. import nn
from .config import CogVideoXConfig
from .positions import sincos_embedding


class PatchEmbed(nnx.Module):
    """Latents and text states to tokens, with added positions (diffusers' CogVideoXPatchEmbed)."""

    def __init__(self, config: CogVideoXConfig, *, dtype, rngs: nnx.Rngs):
        self.config, self.dtype = config, dtype
        dim, patch = config.inner_dim, config.patch
        if config.patch_size_t is None:
            self.proj = nn.Conv(
                config.in_channels,
                dim,
                patch[1:],
                strides=patch[1:],
                bias=config.patch_bias,
                dtype=dtype,
                rngs=rngs,
            )
        else:  # has a bias although 1.5's config says patch_bias=False
            pixels = config.in_channels * patch[0] * patch[1] * patch[2]
            self.proj = nn.Linear(pixels, dim, dtype=dtype, rngs=rngs)
        self.text_proj = nn.Linear(config.text_embed_dim, dim, dtype=dtype, rngs=rngs)
        if config.use_learned_positional_embeddings:
            frames, height, width = config.sample_shape
            tokens = config.max_text_seq_length + frames * height * width
            self.pos_embedding = nnx.Param(jnp.zeros((1, tokens, dim), dtype))
        else:
            self.pos_embedding = None

    def __call__(self, text: jax.Array, video: jax.Array) -> jax.Array:
        """[B, text, text_embed_dim] and [B, T, C, H, W] to [B, text + video, inner_dim]."""
        config = self.config
        batch, frames, channels, height, width = video.shape
        shape = config.token_shape(frames, height, width)
        if config.patch_size_t is None:
            images = video.reshape(-1, channels, height, width).transpose(0, 2, 3, 1)
            tokens = self.proj(images)
        else:
            pt, ph, pw = config.patch
            t, h, w = shape
            tokens = video.reshape(batch, t, pt, channels, h, ph, w, pw)
            tokens = self.proj(
                tokens.transpose(0, 1, 4, 6, 3, 2, 5, 7).reshape(batch, t * h * w, -1)
            )
        tokens = tokens.reshape(batch, -1, config.inner_dim)
        text = self.text_proj(text)
        if self.pos_embedding is not None:
            self._check_canvas(shape, text.shape[1])
            # diffusers adds sines and cosines, not the learned table, to another number of frames.
            if shape == config.sample_shape:
                joint = jnp.concatenate([text, tokens], 1)
                return joint + self.pos_embedding[...].astype(self.dtype)
        if config.adds_positions:
            tokens += sincos_embedding(config, shape).astype(self.dtype)[None]
        return jnp.concatenate([text, tokens], 1)

    def _check_canvas(self, shape: tuple[int, int, int], text_len: int) -> None:
        config = self.config
        if shape[1:] != config.sample_shape[1:] or text_len != config.max_text_seq_length:
            raise ValueError(
                f"{text_len} text tokens and {shape[1]} x {shape[2]} tokens in a frame do not fit the learned "
                f"positions of this model, {config.max_text_seq_length} of text and "
                f"{config.sample_shape[1]} x {config.sample_shape[2]}; use latents of {config.sample_height} "
                f"x {config.sample_width} and pad the text"
            )


class TimestepEmbedding(nnx.Module):
    """Two linears with a SiLU between them."""

    def __init__(self, dim_in: int, dim: int, *, dtype, rngs: nnx.Rngs):
        self.linear_1 = nn.Linear(dim_in, dim, dtype=dtype, rngs=rngs)
        self.linear_2 = nn.Linear(dim, dim, dtype=dtype, rngs=rngs)

    def __call__(self, sinusoid: jax.Array) -> jax.Array:
        """[B, dim_in] to [B, dim]."""
        return self.linear_2(jax.nn.silu(self.linear_1(sinusoid)))
