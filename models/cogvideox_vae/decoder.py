"""Decoder: a chunk of latents to its frames."""

import jax
from flax import nnx

from .config import CogVideoXVAEConfig
from .layers import CausalConv, Level, SpatialNorm, UpLevel


class Decoder(nnx.Module):
    """Source: diffusers' CogVideoXDecoder3D."""

    def __init__(self, config: CogVideoXVAEConfig, *, dtype, rngs: nnx.Rngs):
        widths, latent = config.block_out_channels[::-1], config.latent_channels
        groups = config.norm_num_groups
        shared = dict(
            groups=groups, eps=config.norm_eps, latent_channels=latent, dtype=dtype, rngs=rngs
        )
        self.conv_in = CausalConv(latent, widths[0], dtype=dtype, rngs=rngs)
        self.mid_block = Level(widths[0], widths[0], 2, **shared)
        self.up_blocks = nnx.List(
            [
                UpLevel(
                    *(widths[max(i - 1, 0)], width, config.layers_per_block + 1),
                    last=i == len(widths) - 1,
                    double_time=i < 2,
                    **shared,
                )
                for i, width in enumerate(widths)
            ]
        )
        self.norm_out = SpatialNorm(widths[-1], latent, groups=groups, dtype=dtype, rngs=rngs)
        self.conv_out = CausalConv(widths[-1], config.out_channels, dtype=dtype, rngs=rngs)

    def __call__(self, z: jax.Array, caches: tuple | None) -> tuple[jax.Array, tuple]:
        """One chunk.

        Args:
          z: [B, t, h, w, latent_channels]; it also conditions every norm.
          caches: of the chunk before; None for the first.

        Returns:
          Frames [B, F, H, W, out_channels], F = 4t, or 4t - 3 for odd t; and the new caches.
        """
        first, *inner, last = caches or (None,) * (len(self.up_blocks) + 3)
        x, first = self.conv_in(z, first)
        new = []
        for block, cache in zip([self.mid_block, *self.up_blocks], inner, strict=True):
            x, cache = block(x, z, cache)
            new.append(cache)
        x, last = self.conv_out(jax.nn.silu(self.norm_out(x, z)), last)
        return x, (first, *new, last)
