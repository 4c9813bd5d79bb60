"""Modules that hold a checkpoint's weights: Linear, Conv and norms with the dtypes torch would use.

Matmuls and convolutions run in `dtype`; norms compute in float32 and return the dtype of their input.
Weights are kept in `dtype` too, so a model built with bfloat16 takes two bytes a parameter; where an
original keeps float32, its module is built with float32. Initial values are Flax's defaults: they matter
only to tests, for weights come from `models.load_transformer` and its siblings.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from . import layers


class Linear(nnx.Linear):
    """y = x W + b in `dtype`; input of any dtype."""

    def __init__(self, dim_in: int, dim_out: int, *, bias: bool = True, dtype, rngs: nnx.Rngs):
        super().__init__(dim_in, dim_out, use_bias=bias, dtype=dtype, param_dtype=dtype, rngs=rngs)


class Conv(nnx.Conv):
    """Convolution over channels-last arrays, one spatial axis per entry of `kernel`; no padding by default.

    Args:
      padding: "VALID", or (before, after) of each spatial axis.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: Sequence[int],
        *,
        strides: int | Sequence[int] = 1,
        padding: str | Sequence[tuple[int, int]] = "VALID",
        bias: bool = True,
        dtype,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            channels_in,
            channels_out,
            tuple(kernel),
            strides=strides,
            padding=padding,
            use_bias=bias,
            dtype=dtype,
            param_dtype=dtype,
            rngs=rngs,
        )


class MLP(nnx.Module):
    """Linear, activation, linear (diffusers' TimestepEmbedding, PixArtAlphaTextProjection and FeedForward).

    Args:
      activation: a named function: a `partial` made twice would compile every call twice.
    """

    def __init__(
        self,
        dim_in: int,
        inner: int,
        dim_out: int,
        activation: Callable[[jax.Array], jax.Array],
        *,
        dtype,
        rngs: nnx.Rngs,
    ):
        self.linear_1 = Linear(dim_in, inner, dtype=dtype, rngs=rngs)
        self.linear_2 = Linear(inner, dim_out, dtype=dtype, rngs=rngs)
        self.activation = activation

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., dim_in] to [..., dim_out]."""
        return self.linear_2(self.activation(self.linear_1(x)))


class PatchEmbed(nnx.Module):
    """Patches of a latent video to tokens, by a convolution with the patch's stride."""

    def __init__(
        self, channels: int, dim: int, patch: tuple[int, int, int], *, dtype, rngs: nnx.Rngs
    ):
        self.proj = Conv(channels, dim, patch, strides=patch, dtype=dtype, rngs=rngs)

    def __call__(self, video: jax.Array) -> jax.Array:
        """[B, C, T, H, W] to [B, L, dim] in raster order."""
        tokens = self.proj(video.transpose(0, 2, 3, 4, 1))
        return tokens.reshape(tokens.shape[0], -1, tokens.shape[-1])


class Embedding(nnx.Module):
    """Table [rows, dim] of vectors."""

    def __init__(self, rows: int, dim: int, *, dtype, rngs: nnx.Rngs):
        self.embedding = nnx.Param(jax.random.normal(rngs.params(), (rows, dim), dtype))

    def __call__(self, ids: jax.Array) -> jax.Array:
        """int [...] to [..., dim]."""
        return self.embedding[...][ids]


class LayerNorm(nnx.Module):
    """Layer norm over the last axis, in float32; `affine` adds a scale and a bias."""

    def __init__(self, dim: int, *, eps: float, affine: bool = True, dtype=jnp.float32):
        self.eps = eps
        self.scale = nnx.Param(jnp.ones((dim,), dtype)) if affine else None
        self.bias = nnx.Param(jnp.zeros((dim,), dtype)) if affine else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., dim] of any dtype to the same."""
        y = layers.layer_norm(x, eps=self.eps)
        if self.scale is not None and self.bias is not None:
            y = y * _last(self.scale, y) + _last(self.bias, y)
        return y.astype(x.dtype)


class RMSNorm(nnx.Module):
    """x / rms(x) * scale over the last axis, in float32."""

    def __init__(self, dim: int, *, eps: float, dtype=jnp.float32):
        self.eps = eps
        self.scale = nnx.Param(jnp.ones((dim,), dtype))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., dim] of any dtype to the same."""
        return layers.rms_norm(x, self.scale[...].astype(jnp.float32), eps=self.eps).astype(x.dtype)


class GroupNorm(nnx.Module):
    """Group norm of channels-last arrays [B, ..., C] over all inner axes and C / groups channels, in float32."""

    def __init__(self, groups: int, channels: int, *, eps: float, dtype=jnp.float32):
        self.groups, self.eps = groups, eps
        self.scale = nnx.Param(jnp.ones((channels,), dtype))
        self.bias = nnx.Param(jnp.zeros((channels,), dtype))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, ..., C] of any dtype to the same."""
        y = x.astype(jnp.float32).reshape(x.shape[0], -1, self.groups, x.shape[-1] // self.groups)
        y = y - y.mean((1, 3), keepdims=True)
        y = y * jax.lax.rsqrt(jnp.mean(y * y, (1, 3), keepdims=True) + self.eps)
        y = y.reshape(x.shape)
        return (y * _last(self.scale, y) + _last(self.bias, y)).astype(x.dtype)


def _last(parameter: nnx.Param, like: jax.Array) -> jax.Array:
    value = parameter[...].astype(jnp.float32)
    return value.reshape((1,) * (like.ndim - 1) + (-1,))


def without_weights(cls: Any, config: Any, dtype: Any) -> Any:
    """`cls(config)` with shapes and dtypes in place of weights."""
    return nnx.eval_shape(lambda: cls(config, dtype=dtype, rngs=nnx.Rngs(0)))


@functools.lru_cache(maxsize=8)
def planned(cls: Any, config: Any, dtype: Any) -> Any:
    """The same to plan with, made once, because it takes a second for the largest: it must not be changed."""
    return without_weights(cls, config, dtype)
