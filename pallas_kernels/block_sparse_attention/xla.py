"""Block-sparse attention in plain JAX: memory linear in L, forward and backward.

The arithmetic of a step is in `_tiles.py`, the order of steps in `_walk.py`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .. import _padding, _real_lists, _tiles
from ..block_mask import BlockMask
from ..tile_gaps import without_far_tiles
from ._walk import Plan, over_heads, pick

# Of parts that hold no key; where fewer are empty, the larger products of blocks are worth more.
_EMPTY_SHARE = 1 / 16


def block_sparse_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: BlockMask, *, scale: float, skip_below=None
) -> tuple[jax.Array, jax.Array]:
    """See `api.block_sparse_attention`."""
    dtype = q.dtype
    if dtype == jnp.float16:  # the range of float16 cannot hold unshifted weights
        q, k, v = (x.astype(jnp.float32) for x in (q, k, v))
    if skip_below is not None:
        mask = without_far_tiles(q, k, mask, skip_below, scale)
    lists = plan_lists(mask, q.shape[1], k.shape[1])
    if isinstance(lists.parts, jax.Array):
        # Copies in block order wait for the lists: the memory of a search that makes them is free by then.
        q, k, v, lists = lax.optimization_barrier((q, k, v, lists))
    out, lse = _attention(scale, q, k, v, *jax.tree.map(jnp.asarray, (mask, lists)))
    return out.astype(dtype), lse


def plan_lists(mask: BlockMask, length_q: int, length_kv: int) -> _real_lists.RealLists:
    """What query blocks read: parts of blocks where the host knows that it pays, or whole ones.

    Queries stay in blocks. Each fetches what it reads, and three tiles of 128 would fetch the same
    three times: a third more time for each pair, which the padding of few videos outweighs.
    """
    lengths = mask.kv_lengths
    # The same for all heads, or a head could have other bits alone than among others.
    known = lengths is None or (isinstance(lengths, np.ndarray) and lengths.shape[1] == 1)
    of = functools.partial(_real_lists.of, mask, length_q, length_kv, tile=mask.block_q)
    lists = of(step=1 if known else mask.block_kv)
    if known and lists.sizes is not None and (lists.sizes == 0).mean() < _EMPTY_SHARE:
        return of(step=mask.block_kv)
    return lists


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(scale, q, k, v, mask, lists):
    return _forward(scale, q, k, v, mask, lists)[0]


def _forward(scale, q, k, v, mask, lists):
    plan = _plan(mask, lists)
    q_real, k, v, bias = _without_padding(q, k, v, mask, lists)
    q_rows, *keys = _cut(q_real, k, v, mask, lists)
    longest_key, longest_value = (_tiles.longest(x).max(-1)[..., None, None] for x in keys)
    untame = _tiles.untame(q_rows, longest_key, longest_value, scale)

    def attend(walk, top, *sums):
        """Largest logits (where rows are shifted), shifts, and sums over the blocks of a walk.

        A `top` that is known already, from a walk of the lead, stays.
        """
        q, shifted = (pick(x, walk.head, walk.rows) for x in (q_rows, untame))
        whole = walk._replace(first=jnp.int32(0))

        def raise_top(step, top):
            k, _, bias_k = whole.fetch(step, keys, bias)[1]
            return jnp.maximum(top, (_tiles.logits(q, k, scale) + bias_k[:, None]).max(-1))

        def visit(step, sums):
            k, v, bias_k = walk.fetch(step, keys, bias)[1]
            total, acc = _tiles.attend(q, k, v, shift, bias_k, scale)
            return sums[0] + total, sums[1] + acc

        steps = jnp.where(shifted.any(), whole.steps, 0)
        found = lax.fori_loop(0, steps, raise_top, jnp.full(q.shape[:2], -jnp.inf, np.float32))
        top = jnp.where(top > -jnp.inf, top, found)
        shift = jnp.where(shifted & (top > -jnp.inf), top, 0.0)
        return top, shift, lax.fori_loop(0, walk.steps, visit, sums)

    def lead(_, walk, sums):
        top, _, sums = attend(walk, *sums)
        return (), (top, *sums)

    def group(_, walk, sums):
        _, shift, (total, acc) = attend(walk, *sums)
        out, log_total = _tiles.normalise(total, acc)
        return (), (out.astype(q.dtype), shift, log_total)

    row, rows = (plan.tile,), q.shape[0] * q.shape[2] * plan.num_rows
    fresh = (-jnp.inf, row), (0.0, row), (0.0, (*row, q.shape[-1]))
    sums = jnp.zeros((rows, *row), np.float32)
    results = [jnp.zeros((*sums.shape, q.shape[-1]), q.dtype), sums, sums]
    _, (out, shift, log_total) = over_heads(lists, plan, q, fresh, lead, group, (), results)
    out = _from_blocks(out, q.shape[1])
    if mask.q_lengths is not None:
        real = mask.real_queries(mask.block_q * mask.num_q_blocks)
        log_total = jnp.where(real.reshape(*real.shape[:2], -1, *row), log_total, jnp.inf)
        out = _padding.zero(out, real[..., : q.shape[1]])
    lse = _tiles.log_sum_exp(shift, log_total).reshape(*shift.shape[:2], -1)[..., : q.shape[1]]
    return (out, lse), (q, k, v, mask, lists, out, shift, log_total)


def _backward(scale, residuals, cotangents):
    q, k, v, mask, lists, out, shift, log_total = residuals
    d_out, d_lse = cotangents
    plan = _plan(mask, lists)
    live = _from_blocks(log_total[..., None], q.shape[1]) < jnp.inf
    d_out = jnp.where(live, d_out, jnp.zeros((), q.dtype))
    delta = jnp.einsum("blhd,blhd->blh", d_out, out, preferred_element_type=jnp.float32)
    delta = jnp.where(live[..., 0], delta - d_lse.swapaxes(1, 2), 0.0)
    q_real, k, v, bias = _without_padding(q, k, v, mask, lists)
    q_rows, *keys = _cut(q_real, k, v, mask, lists)
    d_rows, delta = (_to_blocks(x, plan.tile, q_rows.shape[2]) for x in (d_out, delta))
    per_query = q_rows, d_rows, shift, log_total, delta

    def visit_all(d_kv, walk, sums):
        q, *others = (pick(x, walk.head, walk.rows) for x in per_query)

        def visit(step, carry):
            d_kv, dq = carry
            blocks, (k, v, bias_k) = walk.fetch(step, keys, bias)
            dq_more, *more = _tiles.attend_vjp(q, k, v, *others, bias_k, scale)
            return _add_blocks(d_kv, more, blocks), dq + dq_more

        d_kv, dq = lax.fori_loop(0, walk.steps, visit, (d_kv, *sums))
        return d_kv, (dq,)

    def group(d_kv, walk, sums):
        d_kv, (dq,) = visit_all(d_kv, walk, sums)
        return d_kv, ((dq * np.float32(scale)).astype(q.dtype),)

    row, rows = (plan.tile, q.shape[-1]), q.shape[0] * q.shape[2] * plan.num_rows
    shape = np.prod(keys[0].shape[:3]), 2, q.shape[-1], lists.part
    d_kv = jnp.zeros(shape, np.float32)
    results = [jnp.zeros((rows, *row), q.dtype)]
    fresh = ((0.0, row),)
    d_kv, (dq,) = over_heads(lists, plan, q, fresh, visit_all, group, d_kv, results)
    dk, dv = (d_kv[:, i].swapaxes(-1, -2).reshape(keys[i].shape) for i in (0, 1))
    dk, dv = (_from_blocks(x, k.shape[1]).astype(q.dtype) for x in (dk * np.float32(scale), dv))
    return _from_blocks(dq, q.shape[1]), dk, dv, None, None


_attention.defvjp(_forward, _backward)


def _plan(mask, lists):
    return Plan.of(lists, mask.block_q * mask.num_q_blocks // lists.counts.shape[-1])


def _cut(q, k, v, mask, lists):
    """q in tiles, k and v in parts."""
    tiles, parts = lists.counts.shape[-1], mask.num_kv_blocks * (mask.block_kv // lists.part)
    sizes = (
        (q, mask.block_q * mask.num_q_blocks // tiles, tiles),
        *((x, lists.part, parts) for x in (k, v)),
    )
    return [_to_blocks(x, size, count) for x, size, count in sizes]


def _add_blocks(sums, tiles, rows):
    """Adds dk and dv [group, D, step * block] to `rows` of sums [_, 2, D, block], in order."""
    step, block = rows.shape[1], sums.shape[-1]

    def add(i, sums):
        member, slot = i // step, i % step
        parts = [lax.dynamic_slice_in_dim(t[member], slot * block, block, 1) for t in tiles]
        return sums.at[rows[member, slot]].add(jnp.stack(parts))

    return lax.fori_loop(0, rows.size, add, sums)


def _without_padding(q, k, v, mask, lists):
    """q, k, v with padding zeroed, and the bias of keys, float32 [B|1, H|1, parts, part]."""
    real_q, real_kv = mask.real_queries(q.shape[1]), mask.real_keys(k.shape[1])
    q, k, v = (_padding.zero(x, real) for x, real in ((q, real_q), (k, real_kv), (v, real_kv)))
    bias = _padding.bias(real_kv, k.shape[1])
    parts = mask.num_kv_blocks * (mask.block_kv // lists.part)
    return q, k, v, _to_blocks(bias, lists.part, parts, -np.inf)


def _to_blocks(x, block, count, fill=0):
    """[B, L, H, ...] to [B, H, count, block, ...]."""
    x = _padding.lengthen(x, count * block, fill).swapaxes(1, 2)
    # Transposed here, once, and not again by every user with a layout of its own.
    return lax.optimization_barrier(x.reshape(*x.shape[:2], count, block, *x.shape[3:]))


def _from_blocks(x, length):
    """[B, H, N, block, D] to [B, length, H, D]."""
    return x.reshape(*x.shape[:2], -1, x.shape[-1])[:, :, :length].swapaxes(1, 2)
