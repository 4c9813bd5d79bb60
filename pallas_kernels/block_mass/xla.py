"""Block mass in chunks, in plain JAX: no array of L x L."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .. import _tiles
from ._real_parts import over_real_parts

_ROWS = 3072  # queries of a tile, over all its heads
_KEYS = 512  # keys of a tile
_MAX_HEADS = 8


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
    """See `api.block_mass`."""
    blocks = {"block_q": block_q, "block_kv": block_kv}
    lengths = {"q_lengths": q_lengths, "kv_lengths": kv_lengths}
    mass = functools.partial(_mass, scale=scale)
    return over_real_parts(mass, q, k, lse, **blocks, **lengths)


def _mass(q, k, lse, *, block_q, block_kv, scale, q_lengths, kv_lengths):
    b, lq, h, _ = q.shape
    lk = k.shape[1]
    heads = max(n for n in range(1, _MAX_HEADS + 1) if b * h % n == 0)
    rows = min(max(_ROWS // heads // block_q, 1), -(-lq // block_q))
    chunk = min(max(_KEYS // block_kv, 1), -(-lk // block_kv))
    real_q = _real_tokens(q_lengths, block_q, lq).swapaxes(1, 2)
    real_kv = _real_tokens(kv_lengths, block_kv, lk).swapaxes(1, 2)
    shift = jnp.where(lse > -jnp.inf, lse * np.float32(_tiles.LOG2E), jnp.inf).swapaxes(1, 2)
    shift = jnp.where(real_q, shift, jnp.inf)[..., None]
    bias = jnp.broadcast_to(jnp.where(real_kv, np.float32(0), -np.float32(np.inf)), (b, lk, h))[
        ..., None
    ]
    zero = jnp.zeros((), q.dtype)
    q, k = jnp.where(real_q[..., None], q, zero), jnp.where(real_kv[..., None], k, zero)
    queries = [
        _to_tiles(q, heads, rows * block_q, 0),
        _to_tiles(shift, heads, rows * block_q, np.inf),
    ]
    keys = [
        _to_tiles(k, heads, chunk * block_kv, 0),
        _to_tiles(bias, heads, chunk * block_kv, -np.inf),
    ]

    def group(operands):
        queries, keys = operands

        def pair(queries, keys):
            (q, shift), (k, bias) = queries, keys
            mass = _tiles.exp2(_tiles.logits(q, k, scale) - shift + bias.swapaxes(-1, -2))
            mass = mass.reshape(heads, rows * block_q, chunk, block_kv).sum(-1)
            return mass.reshape(heads, rows, block_q, chunk).sum(2)

        return lax.map(lambda q: lax.map(lambda k: pair(q, k), keys), queries)

    mass = lax.map(group, (queries, keys))  # [groups, q tiles, kv chunks, heads, rows, chunk]
    mass = mass.transpose(0, 3, 1, 4, 2, 5)
    mass = mass.reshape(b, h, mass.shape[2] * rows, mass.shape[4] * chunk)
    return mass[:, :, : -(-lq // block_q), : -(-lk // block_kv)]


def _to_tiles(x, heads, size, fill):
    """[B, L, H, D] to [groups of heads, tiles, heads, size, D]."""
    b, length, h, d = x.shape
    tiles = -(-length // size)
    if extra := tiles * size - length:
        x = jnp.pad(x, ((0, 0), (0, extra), (0, 0), (0, 0)), constant_values=fill)
    x = x.swapaxes(1, 2).reshape(b * h // heads, heads, tiles, size, d).swapaxes(1, 2)
    return lax.optimization_barrier(x)


def _real_tokens(lengths, block, length):
    if lengths is None:
        return jnp.ones((1, 1, length), bool)
    offsets = jnp.arange(block, dtype=jnp.int32).reshape(1, 1, 1, -1)
    real = offsets < lengths[..., None]
    return real.reshape(*lengths.shape[:2], -1)[..., :length]
