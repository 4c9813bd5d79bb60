"""Layers without a checkpoint's weights, and functions on shapes, that more than one model uses unchanged."""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _dot_last(x, w, dtype):
    return jax.lax.dot_general(
        x.astype(dtype),
        w.astype(dtype),
        (((x.ndim - 1,), (0,)), ((), ())),
        preferred_element_type=jnp.float32,
    )


def _dot_last_fwd(x, w, dtype):
    return _dot_last(x, w, dtype), (x.astype(dtype), w.astype(dtype), jnp.zeros((), x.dtype))


def _dot_last_bwd(dtype, residuals, dy):
    x, w, like = residuals
    dy = dy.astype(dtype)
    leading = tuple(range(x.ndim - 1))
    contract_out = (((dy.ndim - 1,), (1,)), ((), ()))
    dx = jax.lax.dot_general(dy, w, contract_out, preferred_element_type=jnp.float32)
    contract_rows = ((leading, leading), ((), ()))
    dw = jax.lax.dot_general(x, dy, contract_rows, preferred_element_type=jnp.float32)
    return dx.astype(like.dtype), dw


_dot_last.defvjp(_dot_last_fwd, _dot_last_bwd)


class Linear(nnx.Module):
    """y = x W + b with float32 weights and sums, operands rounded to `dtype` in all three matmuls.

    Args:
      dtype: of the matmuls' operands; bfloat16 runs at twice the speed of float32 and more on
        processors (and GPUs) that multiply it natively, and the result stays float32.
      zero_init: start at zero (adaLN-Zero gates and output heads).
    """

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        *,
        dtype=jnp.float32,
        zero_init: bool = False,
        rngs: nnx.Rngs,
    ):
        init = nnx.initializers.zeros_init() if zero_init else nnx.initializers.xavier_uniform()
        self.kernel = nnx.Param(init(rngs.params(), (dim_in, dim_out), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((dim_out,), jnp.float32))
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., dim_in] to float32 [..., dim_out]."""
        y = _dot_last(x, self.kernel[...], self.dtype)
        return y + self.bias[...].reshape((1,) * (y.ndim - 1) + (-1,))


def rms_norm(x: jax.Array, weight: jax.Array, *, eps: float = 1e-6) -> jax.Array:
    """x / rms(x) * weight over the last axis, in float32; `weight` has the last axis' size."""
    x = x.astype(jnp.float32)
    scale = jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + eps)
    return x * scale * weight.reshape((1,) * (x.ndim - 1) + (-1,))


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


def check_shape(name: str, shape: Sequence[int], *allowed: Sequence[int | str]) -> None:
    """ValueError unless `shape` is one of those allowed; a name in these stands for any size."""
    for expected in allowed:
        if len(shape) == len(expected) and all(
            isinstance(want, str) or n == want for n, want in zip(shape, expected, strict=True)
        ):
            return
    listed = " or ".join(f"[{', '.join(map(str, expected))}]" for expected in allowed)
    raise ValueError(f"{name} has shape {tuple(shape)}; it must be {listed}")


def token_shape(size: Sequence[int], patch: tuple[int, int, int]) -> tuple[int, int, int]:
    """Tokens (frames, rows, columns) of a video of `size` pixels in patches; ValueError if it does not divide."""
    if any(n < 1 or n % p for n, p in zip(size, patch, strict=True)):
        raise ValueError(
            f"video of {tuple(size)} pixels does not divide into patches of {patch}; pad or crop it"
        )
    frames, rows, columns = (n // p for n, p in zip(size, patch, strict=True))
    return frames, rows, columns


def patchify(
    video: jax.Array, patch: tuple[int, int, int], *, channels_first: bool = False
) -> jax.Array:
    """[B, F, Y, X, C] to tokens [B, L, pt*ph*pw*C] in raster order; every axis must divide.

    `channels_first`: a token's channels are [C, pt, ph, pw] and not [pt, ph, pw, C].
    """
    b, *size, c = video.shape
    (f, y, x), (pt, ph, pw) = token_shape(size, patch), patch
    video = video.reshape(b, f, pt, y, ph, x, pw, c)
    order = (0, 1, 3, 5, 7, 2, 4, 6) if channels_first else (0, 1, 3, 5, 2, 4, 6, 7)
    return video.transpose(order).reshape(b, f * y * x, pt * ph * pw * c)


def unpatchify(
    tokens: jax.Array,
    shape: tuple[int, int, int],
    patch: tuple[int, int, int],
    *,
    channels_first: bool = False,
) -> jax.Array:
    """Inverse of `patchify`; `shape` is the token grid (frames, height, width)."""
    (f, y, x), (pt, ph, pw) = shape, patch
    b, _, channels = tokens.shape
    c = channels // (pt * ph * pw)
    if channels_first:
        tokens = tokens.reshape(b, f, y, x, c, pt, ph, pw).transpose(0, 1, 5, 2, 6, 3, 7, 4)
    else:
        tokens = tokens.reshape(b, f, y, x, pt, ph, pw, c).transpose(0, 1, 4, 2, 5, 3, 6, 7)
    return tokens.reshape(b, f * pt, y * ph, x * pw, c)
