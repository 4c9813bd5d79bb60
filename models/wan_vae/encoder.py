"""Encoder: a chunk of video to the moments of one latent frame."""

import itertools

import jax
from flax import nnx

from ..video_vae import run_layers
from .config import WanVAEConfig
from .folding import average_down
from .layers import (
    CausalConv,
    Downsample,
    MidBlock,
    ResidualBlock,
    RMSNorm,
    residual_blocks,
)


class ResidualDownBlock(nnx.Module):
    """A level of Wan 2.2's encoder; diffusers' WanResidualDownBlock."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        num_blocks: int,
        *,
        down: bool,
        in_time: bool,
        dtype,
        rngs,
    ):
        self.factors = (2 if in_time else 1, 2 if down else 1)
        pixels = self.factors[0] * self.factors[1] ** 2
        if channels_in * pixels % channels_out:
            raise ValueError(
                f"{channels_in} channels x {pixels} pixels cannot be averaged down to {channels_out} in "
                "groups of one size; choose another dim_mult"
            )
        self.resnets = residual_blocks(
            channels_in, channels_out, num_blocks, dtype=dtype, rngs=rngs
        )
        self.downsampler = (
            Downsample(channels_out, in_time=in_time, dtype=dtype, rngs=rngs) if down else None
        )

    def __call__(self, x: jax.Array, cache: tuple | None):
        """[B, T, H, W, C] to half of it where the level halves, and the new cache."""
        layers = [*self.resnets] + ([] if self.downsampler is None else [self.downsampler])
        y, cache = run_layers(layers, x, cache)
        return y + average_down(x, y.shape[-1], *self.factors), cache


class Encoder(nnx.Module):
    """[B, T, H, W, in_channels] to [B, T / 4, H / 8, W / 8, 2 z_dim]; diffusers' WanEncoder3d."""

    def __init__(self, config: WanVAEConfig, *, dtype, rngs):
        widths = [config.base_dim * m for m in (1, *config.dim_mult)]
        last = len(config.dim_mult) - 1
        self.conv_in = CausalConv(config.in_channels, widths[0], dtype=dtype, rngs=rngs)
        down_blocks: list[nnx.Module] = []
        for i, (a, b) in enumerate(itertools.pairwise(widths)):
            in_time = i != last and config.temperal_downsample[i]
            if config.is_residual:
                down_blocks.append(
                    ResidualDownBlock(
                        a,
                        b,
                        config.num_res_blocks,
                        down=i != last,
                        in_time=in_time,
                        dtype=dtype,
                        rngs=rngs,
                    )
                )
                continue
            for _ in range(config.num_res_blocks):
                down_blocks.append(ResidualBlock(a, b, dtype=dtype, rngs=rngs))
                a = b
            if i != last:
                down_blocks.append(Downsample(b, in_time=in_time, dtype=dtype, rngs=rngs))
        self.down_blocks = nnx.List(down_blocks)
        self.mid_block = MidBlock(widths[-1], dtype=dtype, rngs=rngs)
        self.norm_out = RMSNorm(widths[-1], dtype=dtype)
        self.conv_out = CausalConv(widths[-1], 2 * config.z_dim, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, cache: tuple | None):
        """A chunk of a (patchified) clip to a latent frame's moments, and the new cache."""
        into, *blocks, out = cache or (None,) * (len(self.down_blocks) + 3)
        x, into = self.conv_in(x, into)
        x, blocks = run_layers([*self.down_blocks, self.mid_block], x, blocks)
        x, out = self.conv_out(jax.nn.silu(self.norm_out(x)), out)
        return x, (into, *blocks, out)
