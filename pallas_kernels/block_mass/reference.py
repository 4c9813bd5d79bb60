"""The semantics, in the plainest code: all probabilities at once, then sums over block pairs."""

import jax
import jax.numpy as jnp


def block_mass(
    q: jax.Array,
    k: jax.Array,
    lse: jax.Array,
    *,
    block_q: int,
    block_kv: int,
    scale: float,
    q_lengths: jax.Array | None,
    kv_lengths: jax.Array | None,
) -> jax.Array:
    """See `api.block_mass`; holds arrays of [B, H, Lq, Lk]."""
    real_q = _real_tokens(q_lengths, block_q, q.shape[1]) & (lse > -jnp.inf)
    real_kv = _real_tokens(kv_lengths, block_kv, k.shape[1])
    keep = real_q[..., :, None] & real_kv[..., None, :]
    q = q.astype(jnp.float32).swapaxes(1, 2)
    k = k.astype(jnp.float32).swapaxes(1, 2)
    logits = scale * jnp.einsum("bhqd,bhkd->bhqk", q, k, precision="highest")
    mass = jnp.where(keep, jnp.exp(logits - lse[..., None]), 0.0)

    b, h, lq, lk = mass.shape
    nq, nk = -(-lq // block_q), -(-lk // block_kv)
    mass = jnp.pad(mass, ((0, 0), (0, 0), (0, nq * block_q - lq), (0, nk * block_kv - lk)))
    return mass.reshape(b, h, nq, block_q, nk, block_kv).sum((3, 5))


def _real_tokens(lengths, block, length):
    if lengths is None:
        return jnp.ones((1, 1, length), bool)
    offsets = jnp.arange(block, dtype=jnp.int32).reshape(1, 1, 1, -1)
    real = offsets < lengths[..., None]
    return real.reshape(*lengths.shape[:2], -1)[..., :length]
