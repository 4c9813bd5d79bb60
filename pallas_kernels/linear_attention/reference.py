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
    kv_lengths,
    feature_map: str,
    eps: float,
) -> jax.Array:
    """See `api.linear_attention`; holds arrays of [B, H, Lq, Lk]."""
    lq, lk = q.shape[1], k.shape[1]
    keep = jnp.ones((1, 1, lq, lk), bool)
    if pairs is not None:
        keep = jnp.repeat(jnp.repeat(pairs, block_q, 2), block_kv, 3)[:, :, :lq, :lk]
    if kv_lengths is not None:
        places = jnp.arange(block_kv, dtype=jnp.int32).reshape(1, 1, 1, -1)
        real = places < jnp.asarray(kv_lengths)[..., None]
        real = real.reshape(*kv_lengths.shape[:2], 1, -1)[..., :lk]
        keep = keep & real
        real = real[:, :, 0, :].swapaxes(1, 2)[..., None]
        k, v = (jnp.where(real, x, jnp.zeros((), x.dtype)) for x in (k, v))
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
