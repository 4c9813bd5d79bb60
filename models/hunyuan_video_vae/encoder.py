"""The encoder: video to the moments of a normal distribution of latents."""

import itertools

import jax
from flax import nnx

from ..layers import GroupNorm
from .config import HunyuanVideoVAEConfig
from .layers import EPS, CausalConv, MidBlock, ResnetBlock, norm_silu


class Downsample(nnx.Module):
    """Convolution with strides: 1 + n frames become 1 + n / stride."""

    def __init__(self, channels: int, *, strides: tuple[int, int, int], dtype, rngs: nnx.Rngs):
        self.conv = CausalConv(channels, channels, 3, strides=strides, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, T, h, w, C] to [B, T', h', w', C]."""
        return self.conv(x)


class DownBlock(nnx.Module):
    """A level: residual blocks, then a smaller resolution unless `strides` are all 1."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        num_layers: int,
        strides: tuple[int, int, int],
        groups: int,
        dtype,
        rngs: nnx.Rngs,
    ):
        channels = [channels_in] + [channels_out] * num_layers
        self.resnets = nnx.List(
            ResnetBlock(before, after, groups=groups, dtype=dtype, rngs=rngs)
            for before, after in itertools.pairwise(channels)
        )
        self.downsamplers = nnx.List(
            Downsample(channels_out, strides=strides, dtype=dtype, rngs=rngs)
            for _ in range(max(strides) > 1)
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, T, h, w, channels_in] to [B, T', h', w', channels_out]."""
        for layer in (*self.resnets, *self.downsamplers):
            x = layer(x)
        return x


class Encoder(nnx.Module):
    """diffusers' `HunyuanVideoEncoder3D`."""

    def __init__(self, config: HunyuanVideoVAEConfig, *, dtype, rngs: nnx.Rngs):
        options = {"dtype": dtype, "rngs": rngs}
        groups = config.norm_num_groups
        channels = config.block_out_channels
        self.conv_in = CausalConv(config.in_channels, channels[0], 3, **options)
        self.down_blocks = nnx.List(
            DownBlock(
                before,
                after,
                num_layers=config.layers_per_block,
                strides=strides,
                groups=groups,
                **options,
            )
            for before, after, strides in zip(
                (channels[0], *channels[:-1]), channels, config.scale_factors, strict=True
            )
        )
        self.mid_block = MidBlock(
            channels[-1], attention=config.mid_block_add_attention, groups=groups, **options
        )
        self.conv_norm_out = GroupNorm(groups, channels[-1], eps=EPS, dtype=dtype)
        self.conv_out = CausalConv(channels[-1], 2 * config.latent_channels, 3, **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Video [B, 1 + 4k, H, W, in_channels] to [B, 1 + k, H / 8, W / 8, 2 * latent_channels]."""
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        x = self.mid_block(x)
        return self.conv_out(norm_silu(self.conv_norm_out, x))
