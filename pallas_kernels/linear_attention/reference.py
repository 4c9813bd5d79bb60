"""The semantics, in the plainest code: all weights at once."""

import jax
import jax.numpy as jnp

from .features import features


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
    """See `api.linear_attention`; holds arrays of [B, H, Lq, Lk]."""
    lq, lk = q.shape[1], k.shape[1]
    keep = jnp.ones((1, 1, lq, lk), bool)
    if pairs is not None:
        keep = jnp.repeat(jnp.repeat(pairs, block_q, 2), block_kv, 3)[:, :, :lq, :lk]
    if q_lengths is not None:
        real = _real(q_lengths, block_q, lq)
        keep = keep & real[..., None]
        q = _where(real, q)
    if kv_lengths is not None:
        real = _real(kv_lengths, block_kv, lk)
        keep = keep & real[..., None, :]
        k, v = _where(real, k), _where(real, v)
    weights = jnp.einsum(
        "bqhd,bkhd->bhqk",
        features(q, feature_map),
        features(k, feature_map),
        precision="highest",
    )
    weights = jnp.where(keep, weights, 0)
    out = jnp.einsum("bhqk,bkhd->bqhd", weights, v.astype(jnp.float32), precision="highest")
    total = weights.sum(-1).swapaxes(1, 2)[..., None] + eps
    return (out / jnp.where(total == 0, 1, total)).astype(q.dtype)


def _real(lengths, block, length):
    """Bool [B|1, H|1, L]."""
    places = jnp.arange(block, dtype=jnp.int32).reshape(1, 1, 1, -1)
    real = places < jnp.asarray(lengths)[..., None]
    return real.reshape(*lengths.shape[:2], -1)[..., :length]


def _where(real, x):
    """`x` [B, L, H, D] with zeros for padding, which may hold anything."""
    return jnp.where(real.swapaxes(1, 2)[..., None], x, jnp.zeros((), x.dtype))
