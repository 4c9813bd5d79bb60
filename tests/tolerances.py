"""Exact attention in float64, and error budgets derived from the dtype.

An implementation may err twice as much as the plainest program in the same precision errs against
float64, plus one rounding each of logit, exponential, sum and result. Nothing is tuned by hand.
"""

import jax
import jax.numpy as jnp
import numpy as np


def token_keep(mask, lq, lk):
    """Bool [b, h, Lq, Lk] of a BlockMask, from its dense form and lengths alone."""
    keep = np.asarray(mask.to_dense()).repeat(mask.block_q, -2).repeat(mask.block_kv, -1)
    keep = keep[..., :lq, :lk]
    for lengths, block, axis in (
        (mask.q_lengths, mask.block_q, -2),
        (mask.kv_lengths, mask.block_kv, -1),
    ):
        if lengths is not None:
            real = np.arange(block) < np.asarray(lengths)[..., None]
            real = real.reshape(*real.shape[:2], -1)[..., : keep.shape[axis]]
            keep = keep & np.expand_dims(real, -1 if axis == -2 else -2)
    return keep


def exact_attention(q, k, v, keep, scale, d_out, d_lse):
    """out, lse, dq, dk, dv in float64, from [B, L, H, D] arrays; padding never enters."""
    q, k, v, d_out = (np.asarray(x, np.float64).swapaxes(1, 2) for x in (q, k, v, d_out))
    keep = np.broadcast_to(keep, (*q.shape[:2], q.shape[2], k.shape[2]))
    rows, columns = keep.any(-1)[..., None], keep.any(-2)[..., None]
    q, k, v = np.where(rows, q, 0), np.where(columns, k, 0), np.where(columns, v, 0)
    d_out, d_lse = np.where(rows, d_out, 0), np.where(rows[..., 0], d_lse, 0)
    logits = np.where(keep, scale * np.einsum("bhqd,bhkd->bhqk", q, k), -np.inf)
    top = np.where(rows, logits.max(-1, keepdims=True), 0)
    weights = np.exp(logits - top)
    total = weights.sum(-1, keepdims=True)
    p = weights / np.where(rows, total, 1)
    lse = np.where(rows, np.log(np.where(rows, total, 1)) + top, -np.inf)[..., 0]
    out = p @ v
    d_p = d_out @ v.swapaxes(-1, -2)
    d_logits = p * (d_p - (d_out * out).sum(-1, keepdims=True) + d_lse[..., None])
    dq, dk, dv = scale * d_logits @ k, scale * d_logits.swapaxes(-1, -2) @ q, p.swapaxes(-1, -2)
    grads = (x.swapaxes(1, 2) for x in (dq, dk, dv @ d_out))
    return out.swapaxes(1, 2), lse, *grads


@jax.jit
def plain_attention(q, k, v, keep, scale, d_out, d_lse):
    """out, lse, dq, dk, dv of the plainest program in the dtype of q: rounds where it stores."""

    def attend(q, k, v):
        logits = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=jnp.float32)
        logits = jnp.where(keep, logits * scale, -jnp.inf)
        top = jax.lax.stop_gradient(jnp.maximum(logits.max(-1, keepdims=True), -1e30))
        weights = jnp.where(keep, jnp.exp(jnp.where(keep, logits - top, 0.0)), 0.0)
        total = weights.sum(-1, keepdims=True)
        total = jnp.where(total > 0.0, total, 1.0)
        p = (weights / total).astype(q.dtype)
        out = jnp.einsum("bhqk,bkhd->bqhd", p, v, preferred_element_type=jnp.float32)
        return out.astype(q.dtype), (jnp.log(total) + top)[..., 0]

    (out, lse), vjp = jax.vjp(attend, q, k, v)
    return out, lse, *vjp((d_out, d_lse))


def assert_within_budget(got, exact, plain, dtype, name):
    """|got - exact| stays within twice that of `plain`, plus four roundings to `dtype`."""
    got, plain = np.asarray(got, np.float64), np.asarray(plain, np.float64)
    empty = np.isneginf(exact)
    assert (np.isneginf(got) == empty).all(), f"{name}: -inf in other places than expected"
    got, exact, plain = (np.where(empty, 0, x) for x in (got, exact, plain))
    assert np.isfinite(got).all(), f"{name} holds NaN or inf"
    budget = 2 * np.abs(plain - exact).max() + 4 * float(jnp.finfo(dtype).eps) * np.abs(exact).max()
    error = np.abs(got - exact).max()
    assert error <= budget, f"{name}: error {error:.3e} exceeds its budget {budget:.3e} in {dtype}"
