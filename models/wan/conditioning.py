"""The conditioning of Wan's blocks: the embedded timestep, prompt and image."""

import jax
import jax.numpy as jnp
from flax import nnx

from .. import layers
from .config import WanConfig

_IMAGE_NORM_EPS = 1e-5  # torch's default, whatever the configuration says


def gelu(x: jax.Array) -> jax.Array:
    """GELU in its exact form, computed in float32 and returned in the dtype of `x`."""
    return jax.nn.gelu(x.astype(jnp.float32), approximate=False).astype(x.dtype)


class ImageEmbedder(nnx.Module):
    """States of an image encoder to the model's width; two images (first and last frame) become one sequence.

    Source: diffusers' WanImageEmbedding.
    """

    def __init__(self, config: WanConfig, *, dtype, rngs: nnx.Rngs):
        assert config.image_dim is not None
        width, tokens = config.image_dim, config.pos_embed_seq_len
        self.norm1 = layers.LayerNorm(width, eps=_IMAGE_NORM_EPS)
        self.ff = layers.MLP(width, width, config.dim, gelu, dtype=dtype, rngs=rngs)
        self.norm2 = layers.LayerNorm(config.dim, eps=_IMAGE_NORM_EPS)
        shape = None if tokens is None else (1, tokens, width)
        self.pos_embed = None if shape is None else nnx.Param(jnp.zeros(shape, dtype))

    def __call__(self, image: jax.Array) -> jax.Array:
        """[B, N, image_dim] to [B, N, dim]; with `pos_embed` [2 B, N, image_dim] to [B, 2 N, dim]."""
        if self.pos_embed is not None:
            position = self.pos_embed[...].astype(image.dtype)
            image = image.reshape(-1, *position.shape[1:]) + position
        return self.norm2(self.ff(self.norm1(image)))


class ConditionEmbedder(nnx.Module):
    """Timestep, prompt and image to what the blocks read.

    Source: diffusers' WanTimeTextImageEmbedding.
    """

    def __init__(self, config: WanConfig, *, dtype, rngs: nnx.Rngs):
        dim = config.dim
        # float32 in diffusers (_keep_in_fp32_modules)
        self.time_embedder = layers.MLP(
            config.freq_dim, dim, dim, layers.silu, dtype=jnp.dtype(jnp.float32), rngs=rngs
        )
        self.time_proj = layers.Linear(dim, 6 * dim, dtype=dtype, rngs=rngs)
        self.text_embedder = layers.MLP(
            config.text_dim, dim, dim, layers.gelu_tanh, dtype=dtype, rngs=rngs
        )
        has_image = config.image_dim is not None
        self.image_embedder = ImageEmbedder(config, dtype=dtype, rngs=rngs) if has_image else None
        self.freq_dim, self.dtype = config.freq_dim, dtype

    def __call__(
        self, timestep: jax.Array, text: jax.Array, image: jax.Array | None
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]:
        """Embeddings.

        Args:
          timestep: [B], or [B, tokens] with one for each token.
          text: [B, N, text_dim].
          image: see `ImageEmbedder`; None without one.

        Returns:
          The time embedding [B, dim], its six projections [B, 6 dim] (both [B, tokens, ...] for one timestep per
          token), text [B, N, dim] and image [B, N, dim] or None.
        """
        wave = layers.sinusoidal_embedding(timestep.reshape(-1), self.freq_dim)
        wave = wave.reshape(*timestep.shape, self.freq_dim)
        time = self.time_embedder(wave).astype(self.dtype)
        if self.image_embedder is not None and image is not None:
            image = self.image_embedder(image.astype(self.dtype))
        return time, self.time_proj(layers.silu(time)), self.text_embedder(text), image
