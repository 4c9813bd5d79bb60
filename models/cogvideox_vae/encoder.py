"""Encoder: a chunk of frames to means and log variances of its latents."""

import jax
from flax import nnx

from .. import layers
from ..video_vae import run_layers
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
        self.norm_out = layers.GroupNorm(config.norm_num_groups, widths[-1], eps=1e-6, dtype=dtype)
        self.conv_out = CausalConv(widths[-1], 2 * config.latent_channels, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, cache: tuple | None) -> tuple[jax.Array, tuple]:
        """A chunk of frames [B, F, H, W, in_channels] to [B, t, h, w, 2 latent_channels], and the new cache."""
        into, *blocks, out = cache or (None,) * (len(self.down_blocks) + 3)
        x, into = self.conv_in(x, into)
        x, blocks = run_layers([*self.down_blocks, self.mid_block], x, blocks)
        x, out = self.conv_out(jax.nn.silu(self.norm_out(x)), out)
        return x, (into, *blocks, out)
