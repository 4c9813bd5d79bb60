"""Decoder: one latent frame to a chunk of video."""

import itertools

import jax
from flax import nnx

from ..video_vae import run_layers
from .config import WanVAEConfig
from .folding import duplicate_up
from .layers import CausalConv, MidBlock, RMSNorm, Upsample, residual_blocks


class UpBlock(nnx.Module):
    """A level of Wan 2.1's decoder; diffusers' WanUpBlock. Upsampling halves the channels."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        num_blocks: int,
        *,
        up: bool,
        in_time: bool,
        dtype,
        rngs,
    ):
        self.resnets = residual_blocks(
            channels_in, channels_out, num_blocks, dtype=dtype, rngs=rngs
        )
        half = channels_out // 2
        self.upsamplers = (
            nnx.List([Upsample(channels_out, half, in_time=in_time, dtype=dtype, rngs=rngs)])
            if up
            else None
        )

    def __call__(self, x: jax.Array, cache: tuple | None):
        """[B, T, H, W, C] to twice of it where the level doubles, and the new cache."""
        return run_layers([*self.resnets, *(self.upsamplers or ())], x, cache)


class ResidualUpBlock(nnx.Module):
    """A level of Wan 2.2's decoder; diffusers' WanResidualUpBlock. Upsampling keeps the channels."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        num_blocks: int,
        *,
        up: bool,
        in_time: bool,
        dtype,
        rngs,
    ):
        self.resnets = residual_blocks(
            channels_in, channels_out, num_blocks, dtype=dtype, rngs=rngs
        )
        self.upsampler = (
            Upsample(channels_out, channels_out, in_time=in_time, dtype=dtype, rngs=rngs)
            if up
            else None
        )
        self.factors = (2 if in_time else 1, 2)

    def __call__(self, x: jax.Array, cache: tuple | None):
        """[B, T, H, W, C] to twice of it where the level doubles, and the new cache."""
        if self.upsampler is None:
            return run_layers(self.resnets, x, cache)
        y, new_cache = run_layers([*self.resnets, self.upsampler], x, cache)
        return y + duplicate_up(x, y.shape[-1], *self.factors, first=cache is None), new_cache


class Decoder(nnx.Module):
    """[B, 1, h, w, z_dim] to [B, 1 or 4, 8 h, 8 w, out_channels]; diffusers' WanDecoder3d."""

    def __init__(self, config: WanVAEConfig, *, dtype, rngs):
        last = len(config.dim_mult) - 1
        widths = [config.decoder_dim * m for m in config.dim_mult[-1:] + config.dim_mult[::-1]]
        in_time = (*config.temperal_downsample[::-1], False)
        self.conv_in = CausalConv(config.z_dim, widths[0], dtype=dtype, rngs=rngs)
        self.mid_block = MidBlock(widths[0], dtype=dtype, rngs=rngs)
        block = ResidualUpBlock if config.is_residual else UpBlock
        up_blocks: list[nnx.Module] = []
        for i, (a, b) in enumerate(itertools.pairwise(widths)):
            a = a // 2 if i and not config.is_residual else a
            up_blocks.append(
                block(
                    a,
                    b,
                    config.num_res_blocks + 1,
                    up=i != last,
                    in_time=in_time[i],
                    dtype=dtype,
                    rngs=rngs,
                )
            )
        self.up_blocks = nnx.List(up_blocks)
        self.norm_out = RMSNorm(widths[-1], dtype=dtype)
        self.conv_out = CausalConv(widths[-1], config.out_channels, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, cache: tuple | None):
        """A latent frame to a chunk of a (patchified) clip, and the new cache."""
        into, *blocks, out = cache or (None,) * (len(self.up_blocks) + 3)
        x, into = self.conv_in(x, into)
        x, blocks = run_layers([self.mid_block, *self.up_blocks], x, blocks)
        x, out = self.conv_out(jax.nn.silu(self.norm_out(x)), out)
        return x, (into, *blocks, out)
