"""The vector that modulates every block: time, pooled text and guidance, embedded and added."""

import jax
import jax.numpy as jnp
from flax import nnx

from .. import layers
from ..patches import check_shape

_SINUSOID = 256  # channels of the sinusoidal embedding; fixed in the original


class ConditionEmbedding(nnx.Module):
    """Sum of the embeddings of a time, of pooled text and, if `guidance_embeds`, of a guidance scale.

    Source: diffusers' HunyuanVideoConditionEmbedding (the model's own) and
    CombinedTimestepTextProjEmbeddings (the token refiner's, without guidance).
    """

    def __init__(self, dim: int, pooled_dim: int, *, guidance_embeds: bool, dtype, rngs: nnx.Rngs):
        self.timestep_embedder = layers.MLP(
            _SINUSOID, dim, dim, layers.silu, dtype=dtype, rngs=rngs
        )
        self.text_embedder = layers.MLP(pooled_dim, dim, dim, layers.silu, dtype=dtype, rngs=rngs)
        self.guidance_embedder = (
            layers.MLP(_SINUSOID, dim, dim, layers.silu, dtype=dtype, rngs=rngs)
            if guidance_embeds
            else None
        )

    def __call__(
        self, timestep: jax.Array, pooled: jax.Array, guidance: jax.Array | None = None
    ) -> jax.Array:
        """The vector [B, dim] in the modules' dtype.

        Args:
          timestep: float32 or integers [B], 0 to 1000. The sinusoid is float32 and is rounded to
            the modules' dtype only then: bfloat16 has no 6000, and it lacks most times as well.
          pooled: [B, pooled_dim].
          guidance: 1000 times the guidance scale, likewise [B]; read only with `guidance_embeds`.
        """
        vector = self.timestep_embedder(layers.sinusoidal_embedding(timestep, _SINUSOID))
        if self.guidance_embedder is not None and guidance is not None:
            vector = vector + self.guidance_embedder(
                layers.sinusoidal_embedding(guidance, _SINUSOID)
            )
        return vector + self.text_embedder(pooled)


def check_scalars(name: str, value: jax.Array, batch: int) -> None:
    """ValueError unless `value` is a number per row that has not been rounded below float32."""
    check_shape(name, value.shape, (batch,))
    narrow = jnp.issubdtype(value.dtype, jnp.floating) and jnp.finfo(value.dtype).bits < 32
    if narrow:
        raise ValueError(
            f"{name} is {value.dtype}, which cannot hold it (6000 becomes 6016 in bfloat16); pass "
            "it as float32, whatever the model's dtype"
        )
