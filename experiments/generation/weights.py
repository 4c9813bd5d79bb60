"""The models of a run: first without weights, to plan with, then with weights, placed on the mesh."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from experiments.generation.generate_flags import Config
from models import load_transformer, load_vae, merge_loras
from models.abstract import planned
from models.pipelines import LatentFamily
from models.pretrained import TRANSFORMERS, VAES
from models.sharding import fully_sharded


class Weights:
    """Transformer and VAE of a run.

    On a mesh the transformer's weights lie in parts with `--shard-weights` and else whole on every device, as
    the VAE's do, which is small.

    Attributes:
      everywhere: whole on every device of the mesh; None without one.
    """

    def __init__(self, config: Config, family: LatentFamily, mesh: Mesh | None):
        self.config, self.family = config, family
        self.dtype, self.vae_dtype = jnp.dtype(config.dtype), jnp.dtype(config.vae_dtype)
        self.everywhere = None if mesh is None else NamedSharding(mesh, PartitionSpec())
        self._parts = fully_sharded(mesh) if mesh is not None and config.shard_weights else None

    def planned_transformer(self) -> Any:
        """Without weights."""
        kind, config = TRANSFORMERS[self.family.TRANSFORMER], self.family.transformer
        return self._planned(kind, config, self.dtype, self._parts)

    def planned_vae(self) -> Any:
        """Without weights."""
        return self._planned(VAES[self.family.VAE], self.family.vae, self.vae_dtype, None)

    def load_transformer(self) -> Any:
        """With LoRAs merged."""
        config, where = self.config, self._parts or self.everywhere
        model = load_transformer(
            config.model, dtype=self.dtype, sharding=where, variant=config.variant
        )
        # What there is to say of them was said when they were checked.
        merge_loras(model, config.loras, say=lambda line: None)
        return model

    def load_vae(self) -> Any:
        """On every device of the mesh."""
        config = self.config
        return load_vae(
            config.model, dtype=self.vae_dtype, sharding=self.everywhere, variant=config.variant
        )

    def _planned(self, kind, config, dtype, parts: Callable[[str, tuple], Sharding] | None):
        model = planned(kind, config, dtype)
        if self.everywhere is None:
            return model
        # The plan's memory is that of weights where they will lie.
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(
                x.shape, x.dtype, sharding=parts("", x.shape) if parts else self.everywhere
            ),
            model,
        )
