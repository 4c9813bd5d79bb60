"""Dense attention in chunks, in plain JAX: no array of L x L, forward or backward.

A few heads at a time, tile by tile; a tile is some hundred queries of each head against the next
chunk of keys. Nothing is gathered.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .. import _padding, _tiles

_ROWS = 3072  # queries of a tile, over all its heads; with a chunk, logits of about 6 MiB
_CHUNK = 512  # keys of a tile


def dense_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    scale: float,
    q_lengths: jax.Array | None,
    kv_lengths: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    """See `api.dense_attention`."""
    dtype = q.dtype
    if dtype == jnp.float16:  # the range of float16 cannot hold unshifted weights
        q, k, v = (x.astype(jnp.float32) for x in (q, k, v))
    real_q = _padding.real_of_rows(q_lengths, q.shape[1])
    real_kv = _padding.real_of_rows(kv_lengths, k.shape[1])
    q, k, v = (_padding.zero(x, real) for x, real in ((q, real_q), (k, real_kv), (v, real_kv)))
    out, lse = _attention(scale, q, k, v, real_kv)
    lse = lse if real_q is None else jnp.where(real_q, lse, -jnp.inf)
    return _padding.zero(out, real_q).astype(dtype), lse


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(scale, q, k, v, real_kv):
    return _forward(scale, q, k, v, real_kv)[0]


def _forward(scale, q, k, v, real_kv):
    heads, rows, chunk = _tile_shape(q, k)
    q_tiles = _tiles.to_tiles(q, heads, rows)
    keys, bias = (
        (_tiles.to_tiles(k, heads, chunk), _tiles.to_tiles(v, heads, chunk)),
        _bias(k, real_kv),
    )
    longest = [_tiles.longest(x.swapaxes(1, 2)).reshape(-1, heads, 1) for x in (k, v)]

    def group(operands):
        q_tiles, longest, keys, bias = operands

        def tile(q):
            shifted = _tiles.untame(q, *longest, scale)
            shape = q.shape[:2]

            def chunk_of(i):
                k, v = (x[i] for x in keys)
                return k, v, None if bias is None else bias[i]

            def raise_top(i, top):
                k, _, bias = chunk_of(i)
                logits = _tiles.logits(q, k, scale)
                return jnp.maximum(
                    top, (logits if bias is None else logits + bias[:, None]).max(-1)
                )

            def visit(i, sums):
                k, v, bias = chunk_of(i)
                total, acc = _tiles.attend(q, k, v, shift, bias, scale)
                return sums[0] + total, sums[1] + acc

            chunks = keys[0].shape[0]
            top = jnp.full(shape, -jnp.inf, np.float32)
            top = lax.fori_loop(0, jnp.where(shifted.any(), chunks, 0), raise_top, top)
            shift = jnp.where(shifted & (top > -jnp.inf), top, 0.0)
            sums = jnp.zeros(shape, np.float32), jnp.zeros(q.shape, np.float32)
            total, acc = lax.fori_loop(0, chunks, visit, sums)
            out, log_total = _tiles.normalise(total, acc)
            return out.astype(q.dtype), shift, log_total

        return lax.map(tile, q_tiles)

    out, *sums = lax.map(group, (q_tiles, longest, keys, bias))
    shift, log_total = (_from_tiles(x[..., None], q.shape)[..., 0] for x in sums)
    out = _from_tiles(out, q.shape)
    lse = _tiles.log_sum_exp(shift, log_total).swapaxes(1, 2)
    return (out, lse), (q, k, v, real_kv, out, shift, log_total)


def _backward(scale, residuals, cotangents):
    q, k, v, real_kv, out, shift, log_total = residuals
    d_out, d_lse = cotangents
    heads, rows, chunk = _tile_shape(q, k)
    live = log_total < jnp.inf
    d_out = jnp.where(live[..., None], d_out, jnp.zeros((), q.dtype))
    delta = jnp.einsum("blhd,blhd->blh", d_out, out, preferred_element_type=jnp.float32)
    delta = jnp.where(live, delta - d_lse.swapaxes(1, 2), 0.0)
    sums = (shift, 0), (log_total, np.inf), (delta, 0)
    sums = (_tiles.to_tiles(x[..., None], heads, rows, fill)[..., 0] for x, fill in sums)
    per_query = _tiles.to_tiles(q, heads, rows), _tiles.to_tiles(d_out, heads, rows), *sums
    keys, bias = (
        (_tiles.to_tiles(k, heads, chunk), _tiles.to_tiles(v, heads, chunk)),
        _bias(k, real_kv),
    )

    def group(operands):
        per_query, keys, bias = operands

        def tile(d_kv, operands):
            def visit(dq, chunk):
                (k, v), bias, (dk, dv) = chunk
                more = _tiles.attend_vjp(operands[0], k, v, *operands[1:], bias, scale)
                return dq + more[0], (dk + more[1], dv + more[2])

            nothing = jnp.zeros(operands[0].shape, np.float32)
            dq, d_kv = lax.scan(visit, nothing, (keys, bias, d_kv))
            return d_kv, dq

        shape = *keys[0].shape[:2], keys[0].shape[3], keys[0].shape[2]
        zeros = jnp.zeros(shape, np.float32)
        return lax.scan(tile, (zeros, zeros), per_query)

    (dk, dv), dq = lax.map(group, (per_query, keys, bias))
    dk, dv = dk.swapaxes(-1, -2) * np.float32(scale), dv.swapaxes(-1, -2)
    grads = dq * np.float32(scale), dk, dv
    dq, dk, dv = (_from_tiles(g, x.shape) for g, x in zip(grads, (q, k, v), strict=True))
    return dq.astype(q.dtype), dk.astype(q.dtype), dv.astype(q.dtype), None


_attention.defvjp(_forward, _backward)


def _tile_shape(q, k):
    """Heads, queries of each, and keys of a tile."""
    heads = _tiles.heads_together(q)
    return heads, min(_ROWS // heads, q.shape[1]), min(_CHUNK, k.shape[1])


def _from_tiles(x, shape):
    """Inverse of `_tiles.to_tiles`; `shape` is [B, L, H, _]."""
    b, length, h, _ = shape
    return x.swapaxes(1, 2).reshape(b, h, -1, x.shape[-1])[:, :, :length].swapaxes(1, 2)


def _bias(k, real_kv):
    """0 for a key that counts, -inf for one that does not; None if the chunks hold only such."""
    heads, _, chunk = _tile_shape(k, k)
    if real_kv is None and k.shape[1] % chunk == 0:
        return None
    bias = jnp.broadcast_to(_padding.bias(real_kv, k.shape[1]), k.shape[:3])
    return _tiles.to_tiles(bias[..., None], heads, chunk, -np.inf)[..., 0]
