"""Block mass in chunks, in plain JAX: no array of L x L."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .. import _padding, _tiles
from ._real_parts import binary_shift, over_real_parts

_ROWS = 3072  # queries of a tile, over all its heads
_KEYS = 512  # keys of a tile


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
    heads = _tiles.heads_together(q)
    rows = min(max(_ROWS // heads // block_q, 1), -(-lq // block_q))
    chunk = min(max(_KEYS // block_kv, 1), -(-lk // block_kv))
    real_q = _padding.real_tokens(q_lengths, block_q, lq)
    real_kv = _padding.real_tokens(kv_lengths, block_kv, lk)
    shift = binary_shift(lse, real_q).swapaxes(1, 2)[..., None]
    bias = jnp.broadcast_to(_padding.bias(real_kv, lk), (b, lk, h))[..., None]
    of_q, of_kv = rows * block_q, chunk * block_kv
    queries = [
        _tiles.to_tiles(_padding.zero(q, real_q), heads, of_q),
        _tiles.to_tiles(shift, heads, of_q, np.inf),
    ]
    keys = [
        _tiles.to_tiles(_padding.zero(k, real_kv), heads, of_kv),
        _tiles.to_tiles(bias, heads, of_kv, -np.inf),
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
