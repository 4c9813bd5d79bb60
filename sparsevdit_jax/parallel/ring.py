"""Fewer heads than devices: queries stay where they are, keys and values travel.

Ring attention (arXiv 2310.01889) over a block mask. Differs: keys and values go straight to the
devices whose lists name them, and a hop that no device needs is left out.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels import BlockMask, block_mass, block_sparse_attention
from sparsevdit_jax.merge import merge_by_lse

from .mesh import Shards, held_by, spec


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: BlockMask,
    *,
    scale: float | None,
    implementation: str | None,
    shards: Shards,
) -> tuple[jax.Array, jax.Array]:
    """`block_sparse_attention` of q, k, v [B, L, H, D] in block order, with sharded tokens.

    Partial results of the hops are merged in float32 by their lse.

    Returns:
      out [B, L, H, D] and lse float32 [B, H, L], both sharded by tokens.
    """
    shards.check_rows(q.shape[0])
    n, length, block = shards.tokens, q.shape[1], mask.block_q
    mask = _pad_blocks(mask, n)
    share = mask.num_q_blocks // n
    hops = _hops(mask, n)

    def body(q, k, v, mask, kv_lengths):
        device = jax.lax.axis_index("seq")

        def visit(hop, k, v):
            part = _columns(mask, kv_lengths, (device + hop) % n, share)
            return block_sparse_attention(q, k, v, part, scale=scale, implementation=implementation)

        def step(carry, hop, distance=1):
            k, v, out, lse = carry
            k, v = (held_by(x, distance, n) for x in (k, v))
            return (k, v, *merge_by_lse([(out, lse), visit(hop, k, v)])), None

        out, lse = visit(0, k, v)
        carry = k, v, out.astype(np.float32), lse
        if hops is None:  # a loop, so that a program holds one launch and not n
            carry, _ = jax.lax.scan(step, carry, np.arange(1, n, dtype=np.int32))
        else:
            for before, hop in zip((0, *hops), hops, strict=False):
                carry, _ = step(carry, hop, hop - before)
        return carry[2].astype(q.dtype), carry[3]

    by_tokens = spec(4, tokens=1)
    rows = dataclasses.replace(mask, kv_lengths=None)
    run = jax.shard_map(
        body,
        in_specs=(by_tokens, by_tokens, by_tokens, jax.tree.map(_rows_spec, rows),
                  _lengths_spec(mask.kv_lengths)),
        out_specs=(by_tokens, spec(3, tokens=2)),
        check_vma=False,
    )  # fmt: skip
    padding = ((0, 0), (0, share * n * block - length), (0, 0), (0, 0))
    out, lse = run(*(jnp.pad(x, padding) for x in (q, k, v)), rows, mask.kv_lengths)
    return out[:, :length], lse[..., :length]


def mass(
    q: jax.Array,
    k: jax.Array,
    lse: jax.Array,
    *,
    block: int,
    scale: float | None,
    lengths: Any,
    shards: Shards,
) -> jax.Array:
    """`block_mass` of q, k [B, L, H, D] and lse [B, H, L] in block order: f32 [B, H, N, N].

    Args:
      q: queries.
      k: keys.
      lse: of each query.
      block: tokens in a block.
      scale: factor on the logits.
      lengths: real tokens of each block, int32 [B|1, 1, N], or None.
      shards: the present mesh.
    """
    shards.check_rows(q.shape[0])
    n, length = shards.tokens, q.shape[1]
    count = -(-length // block)
    full = BlockMask.full(count, count, block_q=block, block_kv=block, q_lengths=lengths,
                          kv_lengths=lengths)  # fmt: skip
    padded = _pad_blocks(full, n)
    share = padded.num_q_blocks // n

    def body(q, k, lse, q_lengths, kv_lengths):
        device = jax.lax.axis_index("seq")

        def visit(k, hop):
            part = None
            if kv_lengths is not None:
                start = (device + hop) % n * share
                part = jax.lax.dynamic_slice_in_dim(kv_lengths, start, share, axis=2)
            columns = block_mass(q, k, lse, block_q=block, block_kv=block, scale=scale,
                                 q_lengths=q_lengths, kv_lengths=part)  # fmt: skip
            return held_by(k, 1, n), columns

        # [hop, b, H, rows, share]: the columns of device, device + 1, ...
        _, parts = jax.lax.scan(visit, k, np.arange(n, dtype=np.int32))
        parts = jnp.roll(parts, device, axis=0)
        return jnp.moveaxis(parts, 0, 3).reshape(*parts.shape[1:4], -1)

    by_tokens = spec(4, tokens=1)
    lengths_specs = _rows_spec(padded.q_lengths), _lengths_spec(padded.kv_lengths)
    run = jax.shard_map(
        body,
        in_specs=(by_tokens, by_tokens, spec(3, tokens=2), *lengths_specs),
        out_specs=spec(4, tokens=2),
        check_vma=False,
    )
    extra = (0, share * n * block - length)
    q, k = (jnp.pad(x, ((0, 0), extra, (0, 0), (0, 0))) for x in (q, k))
    lse = jnp.pad(lse, ((0, 0), (0, 0), extra))
    return run(q, k, lse, padded.q_lengths, padded.kv_lengths)[:, :, :count, :count]


def _pad_blocks(mask: BlockMask, n: int) -> BlockMask:
    """`mask` with empty blocks of no tokens at the end, so that the count divides by n."""
    count = mask.num_q_blocks
    extra = -count % n
    if not extra:
        return mask
    xp: Any = np if isinstance(mask.kv_counts, np.ndarray) else jnp
    tail = ((0, 0), (0, 0), (0, extra))
    # A full row stays full: the new columns hold nothing.
    counts = xp.where(mask.kv_counts == count, np.int32(count + extra), mask.kv_counts)
    lengths = (
        np.full((1, 1, count), mask.block_q, np.int32) if x is None else x
        for x in (mask.q_lengths, mask.kv_lengths)
    )
    q_lengths, kv_lengths = (
        (np if isinstance(x, np.ndarray) else jnp).pad(x, tail) for x in lengths
    )
    return BlockMask(
        xp.pad(mask.kv_indices, (*tail, (0, 0))),
        xp.pad(counts, tail),
        q_lengths=q_lengths,
        kv_lengths=kv_lengths,
        block_q=mask.block_q,
        block_kv=mask.block_kv,
        num_kv_blocks=count + extra,
    )


def _hops(mask: BlockMask, n: int) -> Sequence[int] | None:
    """Distances above 0 that some device asks for, ascending; None for all.

    Which they are must be known as the program is made, and they must be few, to be worth a launch
    each in it.
    """
    if not isinstance(mask.kv_counts, np.ndarray) or not isinstance(mask.kv_indices, np.ndarray):
        return None
    asked = np.asarray(mask.to_dense()).any((0, 1))
    share = mask.num_q_blocks // n
    pairs = asked.reshape(n, share, n, share).any((1, 3))
    device, owner = np.nonzero(pairs)
    hops = sorted(set(((owner - device) % n).tolist()) - {0})
    return hops if len(hops) <= n // 2 else None


def _columns(mask: BlockMask, kv_lengths, owner, share: int) -> BlockMask:
    """What the rows of `mask` list among `owner`'s blocks, numbered from 0."""
    slots = np.arange(mask.capacity, dtype=np.int32).reshape(1, 1, 1, -1)
    full = mask.kv_counts == np.int32(mask.num_kv_blocks)
    local = mask.kv_indices - owner * np.int32(share)
    inside = (local >= 0) & (local < share) & (slots < mask.kv_counts[..., None])
    first = jnp.argsort(~inside, axis=-1, stable=True)[..., : min(mask.capacity, share)]
    counts = jnp.where(full, np.int32(share), inside.sum(-1, dtype=np.int32))
    if kv_lengths is not None:
        kv_lengths = jax.lax.dynamic_slice_in_dim(kv_lengths, owner * share, share, axis=2)
    return BlockMask(
        jnp.take_along_axis(local, first, axis=-1),
        counts,
        q_lengths=mask.q_lengths,
        kv_lengths=kv_lengths,
        block_q=mask.block_q,
        block_kv=mask.block_kv,
        num_kv_blocks=share,
    )


def _rows_spec(a):
    """[B|1, H|1, N, ...] with block rows sharded like tokens."""
    if a is None:
        return None
    return spec(a.ndim, rows=0 if a.shape[0] > 1 else None, tokens=2)


def _lengths_spec(a):
    return None if a is None else spec(3, rows=0 if a.shape[0] > 1 else None)
