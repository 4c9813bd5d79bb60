"""Layers of CogVideoX's autoencoder, on channels-last chunks of a clip [B, T, H, W, C].

Every layer that looks back in time is called as `layer(x, cache) -> (y, cache)`, in the decoder with the chunk's
latents `z` as third argument. The cache is what it has to remember of the frames before: `None` stands for "there
are none, this is the first chunk". Caches have one structure whatever the chunk's length, so that they can be the
carry of a scan.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from .. import layers
from ..time_shards import Halo, after_past
from ..video_vae import run_layers


class CausalConv(nnx.Module):
    """3x3x3 convolution that sees two frames of the past: the cache, or before the first chunk its first frame.

    Source: diffusers' CogVideoXCausalConv3d, pad mode "first" (frames repeated, heights and widths zero-padded).
    """

    def __init__(self, channels_in: int, channels_out: int, *, dtype, rngs: nnx.Rngs):
        self.conv = layers.Conv(
            channels_in,
            channels_out,
            (3, 3, 3),
            padding=((0, 0), (1, 1), (1, 1)),
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(
        self, x: jax.Array, cache: jax.Array | Halo | None
    ) -> tuple[jax.Array, jax.Array | Halo]:
        """[B, T, H, W, C] to the same T, H, W, and the cache [B, 2, H, W, C] for the next chunk."""
        if cache is None:
            cache = jnp.concatenate([x[:, :1]] * 2, 1)
        x, cache = after_past(cache, x)
        return self.conv(x), cache


class SpatialNorm(nnx.Module):
    """Group norm whose scale and shift are pointwise functions of the latent (arXiv 2209.09002).

    Source: diffusers' CogVideoXSpatialNorm3D; its eps is 1e-6 whatever `norm_eps` says.
    Differs: the pointwise convolutions run before the latent is enlarged, not after, which is the same numbers
    for a 256th of the work and memory at the last level.
    """

    def __init__(self, channels: int, latent_channels: int, *, groups: int, dtype, rngs: nnx.Rngs):
        self.norm_layer = layers.GroupNorm(groups, channels, eps=1e-6, dtype=dtype)
        self.conv_y = layers.Conv(latent_channels, channels, (1, 1, 1), dtype=dtype, rngs=rngs)
        self.conv_b = layers.Conv(latent_channels, channels, (1, 1, 1), dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, z: jax.Array) -> jax.Array:
        """x [B, T, H, W, C], z [B, t, h, w, latent_channels] of the same chunk."""
        ratio = x.shape[2] // z.shape[2]
        scale, shift = (enlarge(conv(z), x.shape[1], ratio) for conv in (self.conv_y, self.conv_b))
        return self.norm_layer(x) * scale + shift


def enlarge(x: jax.Array, frames: int, ratio: int) -> jax.Array:
    """Nearest-neighbour x to `frames` frames and `ratio` times its height and width.

    The first frame of an odd number stands alone: it stays one frame, the others share the rest.
    """
    alone = frames % 2
    rest = x[:, alone:]
    if rest.shape[1]:
        rest = jnp.repeat(rest, (frames - alone) // rest.shape[1], 1)
        x = jnp.concatenate([x[:, :alone], rest], 1)
    if ratio == 1:
        return x
    return jnp.repeat(jnp.repeat(x, ratio, 2), ratio, 3)


class ResnetBlock(nnx.Module):
    """Two causal convolutions after norm and SiLU, added to the input; norms see the latent in the decoder.

    Args:
      eps: of the group norms, where there is no latent.
      latent_channels: of the latent that conditions the norms; None is plain group norm.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        groups: int,
        eps: float,
        latent_channels: int | None,
        dtype,
        rngs: nnx.Rngs,
    ):
        def norm(channels: int) -> layers.GroupNorm | SpatialNorm:
            if latent_channels is None:
                return layers.GroupNorm(groups, channels, eps=eps, dtype=dtype)
            return SpatialNorm(channels, latent_channels, groups=groups, dtype=dtype, rngs=rngs)

        self.norm1 = norm(channels_in)
        self.conv1 = CausalConv(channels_in, channels_out, dtype=dtype, rngs=rngs)
        self.norm2 = norm(channels_out)
        self.conv2 = CausalConv(channels_out, channels_out, dtype=dtype, rngs=rngs)
        self.conv_shortcut = (
            None
            if channels_in == channels_out
            else layers.Conv(channels_in, channels_out, (1, 1, 1), dtype=dtype, rngs=rngs)
        )

    def __call__(self, x: jax.Array, cache: tuple | None, *z: jax.Array):
        """[B, T, H, W, C] to [B, T, H, W, channels_out], and the new cache."""
        cache1, cache2 = cache or (None, None)
        shortcut = x if self.conv_shortcut is None else self.conv_shortcut(x)
        x, cache1 = self.conv1(jax.nn.silu(self.norm1(x, *z)), cache1)
        x, cache2 = self.conv2(jax.nn.silu(self.norm2(x, *z)), cache2)
        return x + shortcut, (cache1, cache2)


class Downsample(nnx.Module):
    """Halves height and width by a convolution, and time by means of pairs, as diffusers' CogVideoXDownsample3D.

    Args:
      halve_time: the first frame of an odd number stands alone.
    """

    def __init__(self, channels: int, *, halve_time: bool, dtype, rngs: nnx.Rngs):
        self.halve_time = halve_time
        # One row and one column of zeros after the last, none before the first.
        self.conv = layers.Conv(
            channels, channels, (3, 3), strides=2, padding=((0, 1), (0, 1)), dtype=dtype, rngs=rngs
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, T, H, W, C], H and W even."""
        if self.halve_time:
            alone = x.shape[1] % 2
            b, _, *rest = x.shape
            pairs = x[:, alone:].reshape(b, -1, 2, *rest).mean(2)
            x = jnp.concatenate([x[:, :alone], pairs], 1)
        return self.conv(x)


class Upsample(nnx.Module):
    """Doubles height and width, and time if asked, then a convolution, as diffusers' CogVideoXUpsample3D.

    Args:
      double_time: the first frame of an odd number stands alone.
    """

    def __init__(self, channels: int, *, double_time: bool, dtype, rngs: nnx.Rngs):
        self.double_time = double_time
        self.conv = layers.Conv(
            channels, channels, (3, 3), padding=((1, 1), (1, 1)), dtype=dtype, rngs=rngs
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, T, H, W, C] to [B, T or 2T or 2T-1, 2H, 2W, C]."""
        frames = x.shape[1]
        if self.double_time:
            frames = 2 * frames - frames % 2
        return self.conv(enlarge(x, frames, 2))


class Level(nnx.Module):
    """Resnet blocks of one resolution; the first changes the channels.

    Source: diffusers' CogVideoXDownBlock3D, CogVideoXMidBlock3D and CogVideoXUpBlock3D without their samplers.
    Other arguments are those of `ResnetBlock`.
    """

    def __init__(self, channels_in: int, channels_out: int, layers: int, **arguments):
        self.resnets = nnx.List(
            [
                ResnetBlock(channels_in if i == 0 else channels_out, channels_out, **arguments)
                for i in range(layers)
            ]
        )

    def __call__(self, x: jax.Array, cache: tuple | None, *z: jax.Array):
        """As `ResnetBlock`."""
        return run_layers(self.resnets, x, cache, *z)


class DownLevel(Level):
    """A `Level`, then a `Downsample` unless it is the last."""

    def __init__(
        self, *sizes: int, last: bool, halve_time: bool, dtype, rngs: nnx.Rngs, **arguments
    ):
        super().__init__(*sizes, dtype=dtype, rngs=rngs, **arguments)
        make = [] if last else [Downsample(sizes[1], halve_time=halve_time, dtype=dtype, rngs=rngs)]
        self.downsamplers = nnx.List(make)

    def __call__(self, x: jax.Array, cache: tuple | None, *z: jax.Array):
        """As `ResnetBlock`, at half the size."""
        x, cache = super().__call__(x, cache, *z)
        for downsample in self.downsamplers:
            x = downsample(x)
        return x, cache


class UpLevel(Level):
    """A `Level`, then an `Upsample` unless it is the last."""

    def __init__(
        self, *sizes: int, last: bool, double_time: bool, dtype, rngs: nnx.Rngs, **arguments
    ):
        super().__init__(*sizes, dtype=dtype, rngs=rngs, **arguments)
        make = [] if last else [Upsample(sizes[1], double_time=double_time, dtype=dtype, rngs=rngs)]
        self.upsamplers = nnx.List(make)

    def __call__(self, x: jax.Array, cache: tuple | None, *z: jax.Array):
        """As `ResnetBlock`, at twice the size."""
        x, cache = super().__call__(x, cache, *z)
        for upsample in self.upsamplers:
            x = upsample(x)
        return x, cache
