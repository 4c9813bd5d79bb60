"""Padding of sequences: which tokens are real, zeros for the others, and more of them."""

import jax
import jax.numpy as jnp
import numpy as np


def real_tokens(lengths, block: int, length: int):
    """Tokens that are not padding, bool [B|1, H|1, length]; None if all are.

    Args:
      lengths: int32 [B|1, H|1, N], real tokens at the start of each block; None: all.
      block: tokens of a block.
      length: tokens that exist; the last block may not be all there.
    """
    if lengths is None:
        return None
    real = np.arange(block, dtype=np.int32).reshape(1, 1, 1, -1) < lengths[..., None]
    return real.reshape(*lengths.shape[:2], -1)[..., :length]


def real_of_rows(lengths, length: int):
    """The same, bool [B, 1, length], of sequences with `lengths` real tokens at their start, int32 [B]."""
    return None if lengths is None else real_tokens(lengths[:, None, None], length, length)


def zero(x: jax.Array, real) -> jax.Array:
    """x [B, L, H, D] with zeros for tokens that are not real, bool [B|1, H|1, L] or None."""
    if real is None:
        return x
    return jnp.where(jnp.swapaxes(real, 1, 2)[..., None], x, jnp.zeros((), x.dtype))


def bias(real, length: int) -> jax.Array:
    """0 for keys that are real, -inf for others: float32 [B|1, length, H|1], to add to logits."""
    real = np.ones((1, 1, length), bool) if real is None else real
    return jnp.where(jnp.swapaxes(real, 1, 2), np.float32(0), np.float32(-np.inf))


def lengthen(x: jax.Array, length: int, fill=0, axis: int = 1) -> jax.Array:
    """x with `fill` after its end, so that it holds `length` entries along an axis."""
    pads = [(0, length - size if i == axis else 0) for i, size in enumerate(x.shape)]
    return jnp.pad(x, pads, constant_values=fill) if length > x.shape[axis] else x
