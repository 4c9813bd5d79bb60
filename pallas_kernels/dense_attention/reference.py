"""The semantics, in the plainest code: all logits at once, softmax in float32."""

import jax
import jax.numpy as jnp


def dense_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    scale: float,
    q_lengths: jax.Array | None,
    kv_lengths: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    """See `api.dense_attention`; holds arrays of [B, H, Lq, Lk]."""
    dtype = q.dtype
    real_q = _real_tokens(q_lengths, q.shape[0], q.shape[1])
    real_kv = _real_tokens(kv_lengths, k.shape[0], k.shape[1])
    q = jnp.where(real_q[:, :, None, None], q.astype(jnp.float32), 0.0)
    k, v = (jnp.where(real_kv[:, :, None, None], x.astype(jnp.float32), 0.0) for x in (k, v))
    keep = (real_q[:, :, None] & real_kv[:, None, :])[:, None]

    logits = scale * jnp.einsum("bqhd,bkhd->bhqk", q, k, precision="highest")
    top = jnp.max(logits, -1, keepdims=True, initial=-jnp.inf, where=keep)
    top = jax.lax.stop_gradient(jnp.where(jnp.isfinite(top), top, 0.0))
    weights = jnp.where(keep, jnp.exp(jnp.where(keep, logits - top, 0.0)), 0.0)
    total = weights.sum(-1, keepdims=True)
    empty, total = total == 0.0, jnp.where(total == 0.0, 1.0, total)
    out = jnp.einsum("bhqk,bkhd->bqhd", weights / total, v, precision="highest")
    out = jnp.where(empty.swapaxes(1, 2), 0.0, out)  # also stops the cotangent of padding
    lse = jnp.where(empty, -jnp.inf, jnp.log(total) + top)
    return out.astype(dtype), lse[..., 0]


def _real_tokens(lengths, batch, length):
    if lengths is None:
        return jnp.ones((batch, length), bool)
    return jnp.arange(length, dtype=jnp.int32)[None, :] < lengths[:, None]
