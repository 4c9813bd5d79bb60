"""The layers of all models, and the functions between them, with the dtypes that torch would use.

Matmuls and convolutions run in `dtype`; norms compute in float32 and return the dtype of their input.
Weights are kept in `dtype` too, so a model built with bfloat16 takes two bytes a parameter; where an
original keeps float32, its module is built with float32. Initial values are Flax's defaults: they matter
only to tests, for weights come from `models.load_transformer` and its siblings.
"""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


@functools.lru_cache(maxsize=4)  # so that equal modules have one function, and are compiled once
def rounded_dot(dtype: np.dtype) -> Callable:
    """A `dot_general` of float32 x [..., i] and w [i, o], operands rounded to `dtype`, in both gradients too."""

    def product(a, b, contracted):
        numbers = (contracted, ((), ()))
        return jax.lax.dot_general(
            a.astype(dtype), b.astype(dtype), numbers, preferred_element_type=jnp.float32
        )

    @jax.custom_vjp
    def dot(x, w):
        return product(x, w, ((x.ndim - 1,), (0,)))

    def forward(x, w):
        return dot(x, w), (x.astype(dtype), w.astype(dtype))

    def backward(residuals, dy):
        x, w = residuals
        leading = tuple(range(x.ndim - 1))
        return product(dy, w, ((dy.ndim - 1,), (1,))), product(x, dy, (leading, leading))

    dot.defvjp(forward, backward)

    def dot_general(x, w, dimension_numbers, **kwargs):
        del dimension_numbers, kwargs  # nnx.Linear's, always the same
        return dot(x, w)

    return dot_general


class Linear(nnx.Linear):
    """y = x W + b in `dtype`; input of any dtype.

    Args:
      operands: dtype to which the operands of all three matmuls (the result's and the gradients') are rounded, while
        weights, sums and results keep `dtype`, float32: bfloat16 runs at twice the speed of float32 and more on
        processors (and GPUs) that multiply it natively. None: `dtype`.
      kernel_init: of W; None is Flax's default.
    """

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        *,
        bias: bool = True,
        dtype,
        operands: jax.typing.DTypeLike | None = None,
        kernel_init: Callable | None = None,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            dim_in,
            dim_out,
            use_bias=bias,
            dtype=dtype,
            param_dtype=dtype,
            kernel_init=kernel_init or nnx.initializers.lecun_normal(),
            dot_general=jax.lax.dot_general
            if operands is None
            else rounded_dot(jnp.dtype(operands)),
            rngs=rngs,
        )


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
        y = layer_norm(x, eps=self.eps)
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
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + self.eps)
        return (y * _last(self.scale, y)).astype(x.dtype)


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


def layer_norm(x: jax.Array, *, eps: float = 1e-6) -> jax.Array:
    """(x - mean) / std over the last axis, without affine parameters, in float32."""
    x = x.astype(jnp.float32)
    x = x - x.mean(-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + eps)


def modulate(x: jax.Array, shift: jax.Array, scale: jax.Array) -> jax.Array:
    """x * (1 + scale) + shift, in the dtype of its arguments."""
    return x * (1 + scale) + shift


def silu(x: jax.Array) -> jax.Array:
    """x * sigmoid(x), computed in float32 (as torch does inside) and returned in the dtype of `x`."""
    return jax.nn.silu(x.astype(jnp.float32)).astype(x.dtype)


def gelu_tanh(x: jax.Array) -> jax.Array:
    """GELU in its tanh form, computed in float32 (as torch does inside) and returned in the dtype of `x`."""
    return jax.nn.gelu(x.astype(jnp.float32), approximate=True).astype(x.dtype)


def split_heads(x: jax.Array, num_heads: int) -> jax.Array:
    """[B, L, H * D] to [B, L, H, D]."""
    return x.reshape(*x.shape[:2], num_heads, -1)


def sinusoidal_embedding(t: jax.Array, dim: int, *, max_period: float = 10_000.0) -> jax.Array:
    """float32 [B, dim] of the times t [B] (DDPM's units, 0 to 1000): cosines, then sines."""
    half = dim // 2
    # On the host: times near 1000 (or a guidance of 6000) make a last-bit difference between exp functions visible.
    exponent = (
        np.float32(-math.log(max_period)) * np.arange(half, dtype=np.float32) / np.float32(half)
    )
    frequency = np.exp(exponent.astype(np.float64)).astype(np.float32)
    angle = t.astype(jnp.float32)[:, None] * frequency[None]
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], -1)
