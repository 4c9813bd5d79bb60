"""A small model with everything that a checkpoint folder can hold: linear, conv, norm, table, float32 parts."""

import dataclasses

import jax.numpy as jnp
from flax import nnx

from models import layers
from models.keys import KeyTable


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToyConfig:
    size: int = 6
    layers: int = 2


class ToyBlock(nnx.Module):
    def __init__(self, size, *, dtype, rngs):
        self.up = layers.Linear(size, 2 * size, dtype=dtype, rngs=rngs)
        self.patch = layers.Conv(size, 4, (1, 2, 2), dtype=dtype, rngs=rngs)
        self.norm = layers.LayerNorm(size, eps=1e-6, dtype=jnp.float32)


class ToyTransformer(nnx.Module):
    config_class = ToyConfig
    CLASS_NAME = "ToyTransformer3DModel"
    KEYS = KeyTable({"blocks.*.up": "blocks.*.net.0.proj"})

    def __init__(self, config, *, dtype=jnp.float32, rngs):
        self.config = config
        self.blocks = nnx.List(
            [ToyBlock(config.size, dtype=dtype, rngs=rngs) for _ in range(config.layers)]
        )
