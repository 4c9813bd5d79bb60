"""TokenRefiner: two small transformer blocks that the text goes through before it meets the video."""

import jax
import jax.numpy as jnp
from flax import nnx

from .. import layers
from ..attention import Projections
from ..layers import silu
from .blocks import EPS, Modulation
from .conditioning import ConditionEmbedding
from .config import HunyuanVideoConfig

_MLP_RATIO = 4  # fixed in the original, whatever the config's mlp_ratio


class RefinerAttention(Projections):
    """Multi-head attention of the text alone, under a mask that may be no prefix.

    Written out in full, not through `dense_attention`: the text is a few hundred tokens, and the mask
    of `TokenRefiner` is not one that lengths describe.
    """

    def __init__(self, config: HunyuanVideoConfig, *, dtype, rngs: nnx.Rngs):
        super().__init__(config.dim, config.num_heads, qk_norm=None, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, keep: jax.Array) -> jax.Array:
        """x [B, L, dim] under the pairs bool [B, L, L] that attend; the softmax is float32."""
        q, k, v = self.project(x)
        logits = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=jnp.float32)
        logits = jnp.where(keep[:, None], logits * q.shape[-1] ** -0.5, -jnp.inf)
        weights = jax.nn.softmax(logits, -1).astype(v.dtype)
        out = jnp.einsum("bhqk,bkhd->bqhd", weights, v, preferred_element_type=jnp.float32)
        return self.output(out.astype(x.dtype).reshape(x.shape))


class RefinerBlock(nnx.Module):
    """Attention and feed-forward layer after affine norms, each with a gate from the condition.

    Source: diffusers' HunyuanVideoIndividualTokenRefinerBlock.
    """

    def __init__(self, config: HunyuanVideoConfig, *, dtype, rngs: nnx.Rngs):
        dim = config.dim
        self.norm1 = layers.LayerNorm(dim, eps=EPS, dtype=dtype)
        self.attn = RefinerAttention(config, dtype=dtype, rngs=rngs)
        self.norm2 = layers.LayerNorm(dim, eps=EPS, dtype=dtype)
        self.ff = layers.MLP(dim, _MLP_RATIO * dim, dim, silu, dtype=dtype, rngs=rngs)
        self.norm_out = Modulation(dim, 2, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, vector: jax.Array, keep: jax.Array) -> jax.Array:
        """x [B, L, dim], vector [B, dim], keep bool [B, L, L] to [B, L, dim]."""
        gate, ff_gate = self.norm_out(vector)
        x = x + gate * self.attn(self.norm1(x), keep)
        return x + ff_gate * self.ff(self.norm2(x))


class RefinerBlocks(nnx.Module):
    """The refiner's blocks, one after the other (diffusers' HunyuanVideoIndividualTokenRefiner)."""

    def __init__(self, config: HunyuanVideoConfig, *, dtype, rngs: nnx.Rngs):
        self.refiner_blocks = nnx.List(
            [RefinerBlock(config, dtype=dtype, rngs=rngs) for _ in range(config.num_refiner_layers)]
        )

    def __call__(self, x: jax.Array, vector: jax.Array, keep: jax.Array) -> jax.Array:
        """As `RefinerBlock`."""
        for block in self.refiner_blocks:
            x = block(x, vector, keep)
        return x


class TokenRefiner(nnx.Module):
    """Text tokens to the model's width, aware of each other, of the time and of their own mean.

    Source: diffusers' HunyuanVideoTokenRefiner, padded rows included. Differs in one case: the mean of
    a text without real tokens is 0 here and NaN there.
    """

    def __init__(self, config: HunyuanVideoConfig, *, dtype, rngs: nnx.Rngs):
        self.time_text_embed = ConditionEmbedding(
            config.dim, config.text_embed_dim, guidance_embeds=False, dtype=dtype, rngs=rngs
        )
        self.proj_in = layers.Linear(config.text_embed_dim, config.dim, dtype=dtype, rngs=rngs)
        self.token_refiner = RefinerBlocks(config, dtype=dtype, rngs=rngs)

    def __call__(self, text: jax.Array, timestep: jax.Array, mask: jax.Array) -> jax.Array:
        """Refined text.

        Args:
          text: [B, L, text_embed_dim] in the model's dtype.
          timestep: [B], as the model's.
          mask: bool [B, L], where the text is real.

        Returns:
          [B, L, dim]. Every row, real or not, attends to the first token as well: without it a padded
          row would have nothing to attend to.
        """
        count = jnp.maximum(mask.sum(1, keepdims=True), 1).astype(jnp.float32)
        mean = jnp.where(mask[..., None], text.astype(jnp.float32), 0.0).sum(1) / count
        vector = self.time_text_embed(timestep, mean.astype(text.dtype))
        first = (jnp.arange(mask.shape[1]) == 0)[None, None]
        keep = (mask[:, :, None] & mask[:, None, :]) | first
        return self.token_refiner(self.proj_in(text), vector, keep)
