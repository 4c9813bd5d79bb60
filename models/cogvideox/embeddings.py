"""The input of CogVideoX's blocks: tokens of text and latents, with positions."""

import jax
import jax.numpy as jnp
from flax import nnx

from sparsevdit_jax.parallel import join

from .. import layers
from ..patches import patchify
from .config import CogVideoXConfig
from .positions import sincos_embedding


class PatchEmbed(nnx.Module):
    """Latents and text states to tokens, with added positions (diffusers' CogVideoXPatchEmbed)."""

    def __init__(self, config: CogVideoXConfig, *, dtype, rngs: nnx.Rngs):
        self.config, self.dtype = config, dtype
        dim, patch = config.dim, config.patch
        if config.patch_size_t is None:
            self.proj = layers.Conv(
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
            self.proj = layers.Linear(pixels, dim, dtype=dtype, rngs=rngs)
        self.text_proj = layers.Linear(config.text_embed_dim, dim, dtype=dtype, rngs=rngs)
        if config.use_learned_positional_embeddings:
            frames, height, width = config.sample_shape
            tokens = config.max_text_seq_length + frames * height * width
            self.pos_embedding = nnx.Param(jnp.zeros((1, tokens, dim), dtype))
        else:
            self.pos_embedding = None

    def __call__(self, text: jax.Array, video: jax.Array) -> jax.Array:
        """[B, text, text_embed_dim] and [B, T, C, H, W] to [B, text + video, dim]."""
        config = self.config
        video = video.transpose(0, 1, 3, 4, 2)
        shape = config.token_shape(*video.shape[1:4])
        if config.patch_size_t is None:
            tokens = self.proj(video)
        else:
            tokens = self.proj(patchify(video, config.patch, channels_first=True))
        tokens = tokens.reshape(video.shape[0], -1, config.dim)
        text = self.text_proj(text)
        if self.pos_embedding is not None:
            self._check_canvas(shape, text.shape[1])
            # diffusers adds sines and cosines, not the learned table, to another number of frames.
            if shape == config.sample_shape:
                joint = join(tokens, text, text_first=True)
                return joint + self.pos_embedding[...].astype(self.dtype)
        if config.adds_positions:
            tokens += sincos_embedding(config, shape).astype(self.dtype)[None]
        return join(tokens, text, text_first=True)

    def _check_canvas(self, shape: tuple[int, int, int], text_len: int) -> None:
        config = self.config
        if shape[1:] != config.sample_shape[1:] or text_len != config.max_text_seq_length:
            raise ValueError(
                f"{text_len} text tokens and {shape[1]} x {shape[2]} tokens in a frame do not fit the learned "
                f"positions of this model, {config.max_text_seq_length} of text and "
                f"{config.sample_shape[1]} x {config.sample_shape[2]}; use latents of {config.sample_height} "
                f"x {config.sample_width} and pad the text"
            )
