"""Layers of Wan's autoencoder, on channels-last chunks of a clip [B, T, H, W, C].

A clip is processed chunk by chunk: its first frame alone, then as many frames at a time as one latent
holds. Every layer that looks back in time is called as `layer(x, cache) -> (y, cache)`, where the cache is
what it has to remember of the frames before: `None` stands for "there are none, this is the first chunk".
From the second chunk on the shapes of caches are constant, so that they can be the carry of a scan.
"""

import itertools
import math

import jax
import jax.numpy as jnp
from flax import nnx

from pallas_kernels import dense_attention

from ..layers import Conv
from ..time_shards import Halo, after_past


class RMSNorm(nnx.Module):
    """x / |x| * sqrt(C) * gamma over the channels; diffusers' WanRMS_norm.

    |x| is at least 1e-12 and there is no other epsilon. The quotient is computed in float32 and rounded
    to the dtype of x, in which the two products are taken, as in the original.

    Args:
      axes: axes of length 1 after gamma's channels in checkpoints, 3 or (for single frames) 2.
    """

    def __init__(self, channels: int, *, axes: int = 3, dtype):
        self.gamma = nnx.Param(jnp.ones((channels, *(1,) * axes), dtype))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., C] to the same."""
        wide = x.astype(jnp.float32)
        square = jnp.sum(wide * wide, -1, keepdims=True)
        # max(|x|, 1e-12) with the maximum inside the root, where its gradient is finite at x = 0.
        unit = (wide / jnp.sqrt(jnp.maximum(square, 1e-24))).astype(x.dtype)
        gamma = self.gamma[...].reshape((1,) * (x.ndim - 1) + (-1,)).astype(x.dtype)
        return unit * math.sqrt(x.shape[-1]) * gamma


class CausalConv(Conv):
    """3x3x3 convolution that sees this frame and the two before; diffusers' WanCausalConv3d with padding 1.

    Zeros stand around the picture and before the clip. `spatial=1` looks along time only.
    """

    def __init__(self, channels_in: int, channels_out: int, *, spatial: int = 3, dtype, rngs):
        edge = (spatial // 2,) * 2
        super().__init__(
            channels_in,
            channels_out,
            (3, spatial, spatial),
            padding=((0, 0), edge, edge),
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(self, x: jax.Array, cache: jax.Array | Halo | None):  # pyrefly: ignore[bad-override]
        """[B, T, H, W, C] and the two frames before; returns the result and the last two of all."""
        if cache is None:
            cache = jnp.zeros((x.shape[0], 2, *x.shape[2:]), x.dtype)
        x, cache = after_past(cache, x)
        return super().__call__(x), cache


class PointConv(Conv):
    """Convolution of single pixels, 1x1x1 or (`axes=2`) 1x1."""

    def __init__(self, channels_in: int, channels_out: int, *, axes: int = 3, dtype, rngs):
        super().__init__(channels_in, channels_out, (1,) * axes, dtype=dtype, rngs=rngs)


class ResidualBlock(nnx.Module):
    """Norm, SiLU and convolution, twice, beside a shortcut; diffusers' WanResidualBlock."""

    def __init__(self, channels_in: int, channels_out: int, *, dtype, rngs):
        self.norm1 = RMSNorm(channels_in, dtype=dtype)
        self.conv1 = CausalConv(channels_in, channels_out, dtype=dtype, rngs=rngs)
        self.norm2 = RMSNorm(channels_out, dtype=dtype)
        self.conv2 = CausalConv(channels_out, channels_out, dtype=dtype, rngs=rngs)
        self.conv_shortcut = (
            None
            if channels_in == channels_out
            else PointConv(channels_in, channels_out, dtype=dtype, rngs=rngs)
        )

    def __call__(self, x: jax.Array, cache: tuple | None):
        """[B, T, H, W, C] to [B, T, H, W, channels_out], and the new cache."""
        cache1, cache2 = cache or (None, None)
        shortcut = x if self.conv_shortcut is None else self.conv_shortcut(x)
        x, cache1 = self.conv1(jax.nn.silu(self.norm1(x)), cache1)
        x, cache2 = self.conv2(jax.nn.silu(self.norm2(x)), cache2)
        return x + shortcut, (cache1, cache2)


class FrameAttention(nnx.Module):
    """Attention with one head among the pixels of each frame; diffusers' WanAttentionBlock."""

    def __init__(self, channels: int, *, dtype, rngs):
        self.norm = RMSNorm(channels, axes=2, dtype=dtype)
        self.to_qkv = PointConv(channels, 3 * channels, axes=2, dtype=dtype, rngs=rngs)
        self.proj = PointConv(channels, channels, axes=2, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, T, H, W, C] to the same."""
        frames = x.reshape(-1, *x.shape[2:])
        qkv = self.to_qkv(self.norm(frames))
        q, k, v = jnp.split(qkv.reshape(frames.shape[0], -1, 1, qkv.shape[-1]), 3, -1)
        # In chunks, for 720p has 14,400 pixels here; the kernels take no head as wide as this one.
        out, _ = dense_attention(q, k, v, implementation="xla")
        return x + self.proj(out.reshape(frames.shape)).reshape(x.shape)


class MidBlock(nnx.Module):
    """Residual block, attention, residual block; diffusers' WanMidBlock."""

    def __init__(self, channels: int, *, dtype, rngs):
        self.resnets = nnx.List(
            [ResidualBlock(channels, channels, dtype=dtype, rngs=rngs) for _ in range(2)]
        )
        self.attentions = nnx.List([FrameAttention(channels, dtype=dtype, rngs=rngs)])

    def __call__(self, x: jax.Array, cache: tuple | None):
        """[B, T, H, W, C] to the same, and the new cache."""
        before, after = cache or (None, None)
        x, before = self.resnets[0](x, before)
        x, after = self.resnets[1](self.attentions[0](x), after)
        return x, (before, after)


class Upsample(nnx.Module):
    """Twice the size and, with `in_time`, twice the frames; diffusers' WanResample with upsample modes.

    The clip's first frame stays one frame. It is also left out of the memory of the convolution over
    time, which for the second chunk is zeros: so the checkpoints were trained.
    """

    def __init__(self, channels_in: int, channels_out: int, *, in_time: bool, dtype, rngs):
        self.resample = Conv(
            channels_in, channels_out, (3, 3), padding=((1, 1), (1, 1)), dtype=dtype, rngs=rngs
        )
        self.time_conv = (
            CausalConv(channels_in, 2 * channels_in, spatial=1, dtype=dtype, rngs=rngs)
            if in_time
            else None
        )

    def __call__(self, x: jax.Array, cache: jax.Array | Halo | None):
        """[B, T, H, W, C] to [B, T or 2 T, 2 H, 2 W, channels_out], and the new cache."""
        new_cache = cache
        if self.time_conv is not None:
            if cache is None:
                new_cache = jnp.zeros((x.shape[0], 2, *x.shape[2:]), x.dtype)
            else:
                x, new_cache = double_frames(self.time_conv, x, cache)
        b, t, h, w, c = x.shape
        x = jnp.broadcast_to(x.reshape(b * t, h, 1, w, 1, c), (b * t, h, 2, w, 2, c))
        x = self.resample(x.reshape(b * t, 2 * h, 2 * w, c))
        return x.reshape(b, t, 2 * h, 2 * w, -1), new_cache


def double_frames(conv: CausalConv, x: jax.Array, cache: jax.Array | Halo):
    """Twice the frames: the first half of what `conv` returns are the even ones, the second the odd ones."""
    y, cache = conv(x, cache)
    b, t, h, w, c = x.shape
    y = y.reshape(b, t, h, w, 2, c).transpose(0, 1, 4, 2, 3, 5)
    return y.reshape(b, 2 * t, h, w, c), cache


class Downsample(nnx.Module):
    """Half the size and, with `in_time`, half the frames; diffusers' WanResample with downsample modes.

    The clip's first frame stays one frame.
    """

    def __init__(self, channels: int, *, in_time: bool, dtype, rngs):
        # Zeros at the right and the bottom only.
        self.resample = Conv(
            channels,
            channels,
            (3, 3),
            strides=2,
            padding=((0, 1), (0, 1)),
            dtype=dtype,
            rngs=rngs,
        )
        self.time_conv = (
            Conv(channels, channels, (3, 1, 1), strides=(2, 1, 1), dtype=dtype, rngs=rngs)
            if in_time
            else None
        )

    def __call__(self, x: jax.Array, cache: jax.Array | None):
        """[B, T, H, W, C] to [B, T or T / 2, H / 2, W / 2, C], and the new cache (the last frame)."""
        b, t = x.shape[:2]
        x = self.resample(x.reshape(b * t, *x.shape[2:]))
        x = x.reshape(b, t, *x.shape[1:])
        if self.time_conv is None:
            return x, cache
        last = x[:, -1:]
        if cache is not None:
            x = self.time_conv(jnp.concatenate([cache, x], 1))
        return x, last


def residual_blocks(channels_in: int, channels_out: int, count: int, *, dtype, rngs) -> nnx.List:
    """`count` residual blocks, of which the first changes the number of channels."""
    widths = [channels_in] + [channels_out] * count
    return nnx.List(
        [ResidualBlock(a, b, dtype=dtype, rngs=rngs) for a, b in itertools.pairwise(widths)]
    )
