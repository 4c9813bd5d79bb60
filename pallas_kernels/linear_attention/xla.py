"""Linear attention without an array of Lq x Lk, in plain JAX."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .features import features

_SUMS = 1 << 24  # entries of a chunk's summed phi(k)^T v: 64 MB


def linear_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    block_q: int,
    block_kv: int,
    pairs,
    q_lengths,
    kv_lengths,
    feature_map: str,
    eps: float,
) -> jax.Array:
    """See `api.linear_attention`."""
    (batch, lq, heads, dim), lk = q.shape, k.shape[1]
    per_head = functools.partial(_one_head, feature_map=feature_map, eps=eps, dtype=q.dtype)
    q, k, v = (_blocks(x, block) for x, block in ((q, block_q), (k, block_kv), (v, block_kv)))
    real_q = None if q_lengths is None else _real(q_lengths, lq, block_q, (batch, heads))
    real = _real(kv_lengths, lk, block_kv, (batch, heads))
    if pairs is not None:
        pairs = jnp.broadcast_to(pairs, (batch, heads, *pairs.shape[2:]))
        pairs = pairs.reshape(batch * heads, *pairs.shape[2:])
    # Checkpointed: the backward makes a head's sums again instead of keeping those of all heads.
    out = lax.map(jax.checkpoint(lambda head: per_head(*head)), (q, k, v, real_q, real, pairs))
    out = out.reshape(batch, heads, -1, dim).swapaxes(1, 2)
    return out[:, :lq]


def _one_head(q, k, v, real_q, real, pairs, *, feature_map, eps, dtype):
    """[Nq, block_q, D] of one head.

    Args:
      q: [Nq, block_q, D].
      k: [Nk, block_kv, D].
      v: as k.
      real_q: bool [Nq, block_q], or None where all are real.
      real: bool [Nk, block_kv], or None.
      pairs: bool [Nq, Nk], or None for all.
      feature_map: phi.
      eps: added to the denominator.
      dtype: of the result.
    """
    if real_q is not None:
        q = jnp.where(real_q[..., None], q, jnp.zeros((), q.dtype))
        out = _one_head(q, k, v, None, real, pairs, feature_map=feature_map, eps=eps, dtype=dtype)
        return jnp.where(real_q[..., None], out, jnp.zeros((), dtype))
    if real is None:
        keys, values = features(k, feature_map), v.astype(jnp.float32)
    else:  # padding may hold anything, and phi(0) is not 0
        real = real[..., None]
        k, v = (jnp.where(real, x, jnp.zeros((), x.dtype)) for x in (k, v))
        keys, values = jnp.where(real, features(k, feature_map), 0), v.astype(jnp.float32)
    # A last channel of ones in v sums phi(k) beside phi(k)^T v.
    values = jnp.concatenate([values, jnp.ones((*values.shape[:-1], 1), jnp.float32)], -1)
    if pairs is None:
        sums = jnp.einsum("jnd,jne->de", keys, values)
        return _apply(q, sums, feature_map, eps, dtype)
    sums = jnp.einsum("jnd,jne->jde", keys, values)
    size = min(max(_SUMS // sums[0].size, 1), q.shape[0])
    pad = -q.shape[0] % size

    def chunk(operands):
        q, pairs = operands
        mine = jnp.einsum("ij,jde->ide", pairs.astype(jnp.float32), sums)
        return _apply(q, mine, feature_map, eps, dtype)

    q, pairs = (
        jnp.pad(x, ((0, pad), *((0, 0),) * (x.ndim - 1))).reshape(-1, size, *x.shape[1:])
        for x in (q, pairs)
    )
    out = lax.map(jax.checkpoint(chunk), (q, pairs))
    return out.reshape(-1, *out.shape[2:])[: out.shape[0] * size - pad]


def _apply(q, sums, feature_map, eps, dtype):
    """[..., n, D] from queries [..., n, D] and sums [..., D, D + 1], or one [D, D + 1] for all."""
    found = jnp.einsum(
        "ind,ide->ine" if sums.ndim == 3 else "ind,de->ine", features(q, feature_map), sums
    )
    total = found[..., -1:] + eps
    return (found[..., :-1] / jnp.where(total == 0, 1, total)).astype(dtype)


def _blocks(x, block):
    """[B, L, H, D] to [B H, N, block, D], padded with zeros."""
    batch, length, heads, dim = x.shape
    x = jnp.pad(x, ((0, 0), (0, -length % block), (0, 0), (0, 0)))
    return x.swapaxes(1, 2).reshape(batch * heads, -1, block, dim)


def _real(lengths, length, block, shape):
    """Bool [B H, Nk, block]; None where every key is real."""
    starts = np.arange(0, length, block, dtype=np.int32)
    if lengths is None:
        if length % block == 0:
            return None
        lengths = np.minimum(length - starts, block)[None, None]
    places = np.arange(block, dtype=np.int32).reshape(1, 1, 1, -1)
    real = places < jnp.asarray(lengths)[..., None]
    real = jnp.broadcast_to(real, (*shape, *real.shape[2:]))
    return real.reshape(-1, *real.shape[2:])
