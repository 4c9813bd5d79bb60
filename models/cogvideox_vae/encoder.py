"""Encoder: a chunk of frames to means and log variances of its latents."""

import jax
from flax import nnx

from .. import nn
from .config import CogVideoXVAEConfig
from .layers import CausalConv, DownLevel, Level


class Encoder(nnx.Module):
    """Source: diffusers' CogVideoXEncoder3D."""

    def __init__(self, config: CogVideoXVAEConfig, *, dtype, rngs: nnx.Rngs):
        widths = config.block_out_channels
        shared = dict(
            groups=config.norm_num_groups,
            eps=config.norm_eps,
            latent_channels=None,
            dtype=dtype,
            rngs=rngs,
        )
        self.conv_in = CausalConv(config.in_channels, widths[0], dtype=dtype, rngs=rngs)
        self.down_blocks = nnx.List(
            [
                DownLevel(
                    *(widths[max(i - 1, 0)], width, config.layers_per_block),
                    last=i == len(widths) - 1,
                    halve_time=i < 2,
                    **shared,
                )
                for i, width in enumerate(widths)
            ]
        )
        self.mid_block = Level(widths[-1], widths[-1], 2, **shared)
        # 1e-6 whatever norm_eps says, as in the original.
        self.norm_out = nn.GroupNorm(config.norm_num_groups, widths[-1], eps=1e-6, dtype=dtype)
        self.conv_out = CausalConv(widths[-1], 2 * config.latent_channels, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, caches: tuple | None) -> tuple[jax.Array, tuple]:
        """One chunk.

        Args:
          x: [B, F, H, W, in_channels]; H and W multiples of the spatial ratio.
          caches: of the chunk before; None for the first.

        Returns:
          [B, t, h, w, 2 * latent_channels], means before log variances, and the new caches.
        """
        first, *inner, last = caches or (None,) * (len(self.down_blocks) + 3)
        x, first = self.conv_in(x, first)
        new = []
        for block, cache in zip([*self.down_blocks, self.mid_block], inner, strict=True):
            x, cache = block(x, None, cache)
            new.append(cache)
        x, last = self.conv_out(jax.nn.silu(self.norm_out(x)), last)
        return x, (first, *new, last)
