"""The semantics, in the plainest code: all probabilities at once, then sums over block pairs."""

import jax
import jax.numpy as jnp

from .. import _padding


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
    keep = (lse > -jnp.inf)[..., None]
    if (real := _padding.real_tokens(q_lengths, block_q, q.shape[1])) is not None:
        keep &= real[..., :, None]
    if (real := _padding.real_tokens(kv_lengths, block_kv, k.shape[1])) is not None:
        keep &= real[..., None, :]
    q = q.astype(jnp.float32).swapaxes(1, 2)
    k = k.astype(jnp.float32).swapaxes(1, 2)
    logits = scale * jnp.einsum("bhqd,bhkd->bhqk", q, k, precision="highest")
    mass = jnp.where(keep, jnp.exp(logits - lse[..., None]), 0.0)

    b, h, lq, lk = mass.shape
    nq, nk = -(-lq // block_q), -(-lk // block_kv)
    mass = jnp.pad(mass, ((0, 0), (0, 0), (0, nq * block_q - lq), (0, nk * block_kv - lk)))
    return mass.reshape(b, h, nq, block_q, nk, block_kv).sum((3, 5))
