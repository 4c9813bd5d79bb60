"""Decoder: a chunk of latents to its frames."""

import jax
from flax import nnx

from ..video_vae import run_layers
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

    def __call__(self, z: jax.Array, cache: tuple | None) -> tuple[jax.Array, tuple]:
        """A chunk of latents [B, t, h, w, latent_channels] to frames, and the new cache.

        The frames are [B, F, H, W, out_channels] with F = 4t, or 4t - 3 for odd t; the latents condition every norm.
        """
        into, *blocks, out = cache or (None,) * (len(self.up_blocks) + 3)
        x, into = self.conv_in(z, into)
        x, blocks = run_layers([self.mid_block, *self.up_blocks], x, blocks, z)
        x, out = self.conv_out(jax.nn.silu(self.norm_out(x, z)), out)
        return x, (into, *blocks, out)
