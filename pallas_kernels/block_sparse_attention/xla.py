"""Block-sparse attention in plain JAX: memory linear in L, forward and backward.

The query blocks of a head are sorted by the length of their lists and taken in groups, so that a
group walks lists of nearly equal length; a step gathers the next few listed key/value blocks of
every member and computes one tile. A group never spans two heads, hence a head gives the same bits
alone or among others.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .. import _tiles
from ..block_mask import BlockMask

_GROUP_ROWS = 3072  # queries of a group; with the keys of a step, logits of about 3 MiB
_STEP_KEYS = 256  # keys a step gathers for every member of a group
_MAX_GROUP = 64
_LEAD_SHARE = 128  # of so many query blocks one is taken to have a long list


def block_sparse_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: BlockMask, *, scale: float
) -> tuple[jax.Array, jax.Array]:
    """See `api.block_sparse_attention`."""
    dtype = q.dtype
    if dtype == jnp.float16:  # the range of float16 cannot hold unshifted weights
        q, k, v = (x.astype(jnp.float32) for x in (q, k, v))
    plan = _Plan.of(mask)
    out, lse = _attention(scale, plan, q, k, v, jax.tree.map(jnp.asarray, mask))
    return out.astype(dtype), lse


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attention(scale, plan, q, k, v, mask):
    return _forward(scale, plan, q, k, v, mask)[0]


def _forward(scale, plan, q, k, v, mask):
    q_real, k, v, bias = _without_padding(q, k, v, mask)
    q_rows, keys = (
        _pad(q_real, plan.num_rows * plan.block_q),
        [_to_blocks(x, mask.block_kv) for x in (k, v)],
    )
    longest = [_tiles.longest(x.reshape(*x.shape[:2], -1, x.shape[-1])) for x in keys]

    def group(results, operands):
        head, members = operands
        walk = _Walk.of(mask, plan, head, members)
        q = _pick_rows(q_rows, head, members, mask.block_q)
        longest_key, longest_value = (x[head][None, None] for x in longest)
        shifted = _tiles.untame(q, longest_key, longest_value, scale)

        def raise_top(step, top):
            k, _, bias_k = walk.gather(step, keys, bias)[1]
            return jnp.maximum(top, (_tiles.logits(q, k, scale) + bias_k[:, None]).max(-1))

        def visit(step, sums):
            k, v, bias_k = walk.gather(step, keys, bias)[1]
            total, acc = _tiles.attend(q, k, v, shift, bias_k, scale)
            return sums[0] + total, sums[1] + acc

        top = jnp.full(q.shape[:2], -jnp.inf)
        top = lax.fori_loop(0, jnp.where(shifted.any(), walk.steps, 0), raise_top, top)
        shift = jnp.where(shifted & (top > -jnp.inf), top, 0.0)
        sums = jnp.zeros(q.shape[:2]), jnp.zeros(q.shape)
        total, acc = lax.fori_loop(0, walk.steps, visit, sums)
        out, log_total = _tiles.normalise(total, acc)
        tiles = out.astype(q.dtype), shift, log_total
        return _put_rows(results, tiles, head, members), None

    rows = jnp.zeros(q_rows.shape[:3])
    results = jnp.zeros(q_rows.shape, q.dtype), rows, rows
    for groups in _groups(mask, plan, q):
        results = lax.scan(group, results, groups)[0]
    out, shift, log_total = (x[:, : q.shape[1]] for x in results)
    if (real_q := mask.real_queries(q.shape[1])) is not None:
        real_q = real_q.swapaxes(1, 2)
        out = jnp.where(real_q[..., None], out, jnp.zeros((), q.dtype))
        log_total = jnp.where(real_q, log_total, jnp.inf)
    lse = _tiles.log_sum_exp(shift, log_total).swapaxes(1, 2)
    return (out, lse), (q, k, v, mask, out, shift, log_total)


def _backward(scale, plan, residuals, cotangents):
    q, k, v, mask, out, shift, log_total = residuals
    d_out, d_lse = cotangents
    live = log_total < jnp.inf
    d_out = jnp.where(live[..., None], d_out, jnp.zeros((), q.dtype))
    delta = jnp.einsum("blhd,blhd->blh", d_out, out, preferred_element_type=jnp.float32)
    delta = jnp.where(live, delta - d_lse.swapaxes(1, 2), 0.0)
    q_real, k, v, bias = _without_padding(q, k, v, mask)
    padded = (q_real, 0), (d_out, 0), (shift, 0), (log_total, np.inf), (delta, 0)
    per_query = [_pad(x, plan.num_rows * plan.block_q, fill) for x, fill in padded]
    keys = [_to_blocks(x, mask.block_kv) for x in (k, v)]

    def group(carry, operands):
        d_kv, dq_rows = carry
        head, members = operands
        walk = _Walk.of(mask, plan, head, members)
        rows = [_pick_rows(x, head, members, mask.block_q) for x in per_query]

        def visit(step, carry):
            d_kv, dq = carry
            blocks, (k, v, bias_k) = walk.gather(step, keys, bias)
            dq_more, *more = _tiles.attend_vjp(rows[0], k, v, *rows[1:], bias_k, scale)
            return _add_blocks(d_kv, more, blocks), dq + dq_more

        d_kv, dq = lax.fori_loop(0, walk.steps, visit, (d_kv, jnp.zeros(rows[0].shape)))
        dq = (dq * np.float32(scale)).astype(q.dtype)
        return (d_kv, *_put_rows((dq_rows,), (dq,), head, members)), None

    d_kv = jnp.zeros((np.prod(keys[0].shape[:3]), 2, q.shape[-1], mask.block_kv))
    carry = d_kv, jnp.zeros(per_query[0].shape, q.dtype)
    for groups in _groups(mask, plan, q):
        carry = lax.scan(group, carry, groups)[0]
    d_kv, dq = carry
    dk, dv = (d_kv[:, i].swapaxes(-1, -2).reshape(keys[i].shape) for i in (0, 1))
    dk, dv = (_from_blocks(x, k.shape[1]).astype(q.dtype) for x in (dk * np.float32(scale), dv))
    return dq[:, : q.shape[1]], dk, dv, None


_attention.defvjp(_forward, _backward)


class _Plan(NamedTuple):
    """Static sizes of the loops over a mask."""

    block_q: int
    lead: int  # query blocks with the longest lists of a head, processed by themselves
    group: int  # query blocks processed together, of the others
    num_rows: int  # query blocks of a head, with empty ones added to fill the last group
    step: int  # listed blocks visited at a time

    @staticmethod
    def of(mask: BlockMask) -> "_Plan":
        rows = mask.num_q_blocks
        # Text reads everything: one such row would hold its whole group up. Two at least, because
        # the product over a group of one has other bits.
        lead = 2 + rows // _LEAD_SHARE if rows > 2 and _some_rows_are_long(mask.kv_counts) else 0
        rest = rows - lead
        most = min(max(_GROUP_ROWS // mask.block_q, 1), _MAX_GROUP, rest)
        group = min(range(most, most // 2, -1), key=lambda size: -(-rest // size) * size)
        step = max(_STEP_KEYS // mask.block_kv, 1)
        return _Plan(mask.block_q, lead, group, lead + -(-rest // group) * group, step)


def _some_rows_are_long(counts) -> bool:
    """Whether some lists are much longer than most; assumed where that is not known."""
    known = None if isinstance(counts, jax.core.Tracer) else np.asarray(counts)
    return known is None or bool((known.max(-1) > 1.5 * np.median(known, axis=-1)).any())


class _Walk(NamedTuple):
    """The way of one group through its lists; full rows go through all blocks instead."""

    head: tuple[jax.Array, jax.Array]  # index in the batch, head
    lists: jax.Array  # int32 [group, S]
    counts: jax.Array  # int32 [group, 1]
    steps: jax.Array  # int32, until the longest list is done
    slots: jax.Array  # int32 [1, step]

    @staticmethod
    def of(mask: BlockMask, plan: _Plan, head: tuple, members: jax.Array) -> "_Walk":
        inside = members < mask.num_q_blocks
        row = jnp.where(inside, members, 0)
        lists = _pick_blocks(mask.kv_indices, head, row)
        counts = jnp.where(inside, _pick_blocks(mask.kv_counts, head, row), 0)
        steps = (counts.max() + (plan.step - 1)) // plan.step
        slots = jnp.arange(plan.step, dtype=jnp.int32)[None]
        return _Walk(head, lists, counts[:, None], steps, slots)

    def gather(self, step, keys, bias):
        """What a step visits.

        Args:
          step: int32, counted from 0.
          keys: k and v, [B, H, Nk, block, D].
          bias: float32 [B|1, H|1, Nk, block].

        Returns:
          Indices of the blocks in all of k, int32 [group, step], and their k, v and bias, joined:
          [group, step * block, ...]. The bias is -inf throughout a block that is not listed.
        """
        slots = step * self.slots.shape[1] + self.slots
        listed = slots < self.counts
        stored = self.lists[:, jnp.minimum(slots[0], self.lists.shape[1] - 1)]
        num_kv_blocks = keys[0].shape[2]
        every = jnp.minimum(slots, num_kv_blocks - 1)
        chosen = jnp.where(self.counts == num_kv_blocks, every, stored)
        picked = [_pick_blocks(x, self.head, chosen) for x in (*keys, bias)]
        picked[2] = jnp.where(listed[..., None], picked[2], -jnp.inf)
        picked = [x.reshape(x.shape[0], -1, *x.shape[3:]) for x in picked]
        return _flat_head(keys[0], self.head) * num_kv_blocks + chosen, picked


def _groups(mask, plan, q):
    """((batch, head), members) of every group, in sets of equal groups; longest lists first."""
    b, h, n = q.shape[0], q.shape[2], mask.num_q_blocks
    counts = jnp.broadcast_to(mask.kv_counts, (b, h, n))
    counts = jnp.pad(counts, ((0, 0), (0, 0), (0, plan.num_rows - n)))
    order = jnp.argsort(-counts, stable=True).astype(jnp.int32)
    for rows, size in ((order[..., : plan.lead], plan.lead), (order[..., plan.lead :], plan.group)):
        if size:
            members = rows.reshape(-1, size)
            heads = np.indices((b, h), np.int32).reshape(2, -1).repeat(len(members) // (b * h), 1)
            yield tuple(map(jnp.asarray, heads)), members


def _flat_head(x, head):
    """Index of (batch, head) in the first two axes of x [B|1, H|1, ...], taken as one."""
    b, h = (jnp.minimum(i, n - 1) for i, n in zip(head, x.shape[:2], strict=True))
    return b * x.shape[1] + h


def _pick_blocks(x, head, blocks):
    """Entries of x [B|1, H|1, N, ...] at (batch, head) and an array of blocks."""
    rows = _flat_head(x, head) * x.shape[2] + blocks.reshape(-1)
    # Gathered as flat rows, and kept apart from the reshape: a CPU copies those whole, where it
    # would walk a longer shape number by number, at half the speed or less.
    picked = lax.optimization_barrier(x.reshape(np.prod(x.shape[:3]), -1)[rows])
    return picked.reshape(*blocks.shape, *x.shape[3:])


def _pick_rows(x, head, members, block):
    """Query blocks [group, block, ...] of x [B, L, H, ...], which is read where it lies."""
    sizes = (1, block, 1, *x.shape[3:])

    def pick(member):
        start = (head[0], member * block, head[1], *[0] * (x.ndim - 3))
        return lax.dynamic_slice(x, start, sizes)[0, :, 0]

    return jax.vmap(pick)(members)


def _put_rows(xs, tiles, head, members):
    """Writes query blocks [group, block, ...] into arrays [B, L, H, ...]."""

    def put(i, xs):
        member = members[i]
        return tuple(
            lax.dynamic_update_slice(
                x,
                tile[i][None, :, None],
                (head[0], member * tile.shape[1], head[1], *[0] * (x.ndim - 3)),
            )
            for x, tile in zip(xs, tiles, strict=True)
        )

    return lax.fori_loop(0, members.size, put, xs)


def _add_blocks(sums, tiles, rows):
    """Adds dk and dv [group, D, step * block] to `rows` of sums [_, 2, D, block], in order."""
    step, block = rows.shape[1], sums.shape[-1]

    def add(i, sums):
        member, slot = i // step, i % step
        parts = [lax.dynamic_slice_in_dim(t[member], slot * block, block, 1) for t in tiles]
        return sums.at[rows[member, slot]].add(jnp.stack(parts))

    return lax.fori_loop(0, rows.size, add, sums)


def _without_padding(q, k, v, mask):
    """q, k, v with padding zeroed, and the bias of keys, float32 [B|1, H|1, Nk, block]."""
    lq, lk = q.shape[1], k.shape[1]
    zero = jnp.zeros((), q.dtype)
    if (real_q := mask.real_queries(lq)) is not None:
        q = jnp.where(real_q.swapaxes(1, 2)[..., None], q, zero)
    if (real_kv := mask.real_keys(lk)) is not None:
        k, v = (jnp.where(real_kv.swapaxes(1, 2)[..., None], x, zero) for x in (k, v))
    real_kv = jnp.ones((1, 1, lk), bool) if real_kv is None else real_kv
    bias = jnp.where(real_kv, np.float32(0), np.float32(-np.inf)).swapaxes(1, 2)
    return q, k, v, _to_blocks(bias, mask.block_kv, -np.inf)


def _pad(x, length, fill=0):
    if length == x.shape[1]:
        return x
    pad = [(0, 0), (0, length - x.shape[1]), *[(0, 0)] * (x.ndim - 2)]
    return jnp.pad(x, pad, constant_values=fill)


def _to_blocks(x, block, fill=0):
    """[B, L, H, ...] to [B, H, N, block, ...]."""
    count = -(-x.shape[1] // block)
    x = _pad(x, count * block, fill).swapaxes(1, 2)
    # Transposed here, once, and not again by every user with a layout of its own.
    return lax.optimization_barrier(x.reshape(*x.shape[:2], count, block, *x.shape[3:]))


def _from_blocks(x, length):
    """[B, H, N, block, D] to [B, length, H, D]."""
    return x.reshape(*x.shape[:2], -1, x.shape[-1])[:, :, :length].swapaxes(1, 2)
