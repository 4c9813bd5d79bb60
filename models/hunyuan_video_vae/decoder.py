"""The decoder: latents to video."""

import itertools

import jax
from flax import nnx

from ..layers import GroupNorm
from .config import HunyuanVideoVAEConfig
from .layers import EPS, CausalConv, MidBlock, ResnetBlock, Upsample, norm_silu


class UpBlock(nnx.Module):
    """A level: residual blocks, then a larger resolution unless `factors` are all 1."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        num_layers: int,
        factors: tuple[int, int, int],
        groups: int,
        dtype,
        rngs: nnx.Rngs,
    ):
        channels = [channels_in] + [channels_out] * num_layers
        self.resnets = nnx.List(
            ResnetBlock(before, after, groups=groups, dtype=dtype, rngs=rngs)
            for before, after in itertools.pairwise(channels)
        )
        self.upsamplers = nnx.List(
            Upsample(channels_out, factors=factors, dtype=dtype, rngs=rngs)
            for _ in range(max(factors) > 1)
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, T, h, w, channels_in] to [B, T', h', w', channels_out]."""
        for layer in (*self.resnets, *self.upsamplers):
            x = layer(x)
        return x


class Decoder(nnx.Module):
    """diffusers' `HunyuanVideoDecoder3D`."""

    def __init__(self, config: HunyuanVideoVAEConfig, *, dtype, rngs: nnx.Rngs):
        options = {"dtype": dtype, "rngs": rngs}
        groups = config.norm_num_groups
        channels = config.block_out_channels[::-1]
        self.conv_in = CausalConv(config.latent_channels, channels[0], 3, **options)
        self.mid_block = MidBlock(
            channels[0], attention=config.mid_block_add_attention, groups=groups, **options
        )
        self.up_blocks = nnx.List(
            UpBlock(
                before,
                after,
                num_layers=config.layers_per_block + 1,
                factors=factors,
                groups=groups,
                **options,
            )
            for before, after, factors in zip(
                (channels[0], *channels[:-1]), channels, config.scale_factors, strict=True
            )
        )
        self.conv_norm_out = GroupNorm(groups, channels[-1], eps=EPS, dtype=dtype)
        self.conv_out = CausalConv(channels[-1], config.out_channels, 3, **options)

    def __call__(self, z: jax.Array) -> jax.Array:
        """Latents [B, T, h, w, latent_channels] to video [B, 1 + 4(T - 1), 8h, 8w, out_channels]."""
        x = self.mid_block(self.conv_in(z))
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(norm_silu(self.conv_norm_out, x))
