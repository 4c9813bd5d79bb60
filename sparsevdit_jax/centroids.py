"""Attention to the means of blocks: each block that a plan leaves out enters the softmax as one key.

A block of n keys with mean k' and mean value v' counts as n keys that are all k': one key with logit
q . k' * scale + log n and value v'. Sol-Attn (arXiv 2607.24027) and SVG-EAR (arXiv 2603.08982) do so.
The result is a second part of the softmax, for `merge_by_lse`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int

from pallas_kernels import BlockMask
from pallas_kernels._checks import resolve_scale
from pallas_kernels.block_mask import ArrayLike
from sparsevdit_jax.context import StepContext
from sparsevdit_jax.ops import Order, with_lengths
from sparsevdit_jax.parallel.mesh import current

_LOGITS = 2**23  # of one chunk of query blocks: 32 MiB


def attend_centroids(
    q: Float[Array, "B L H D"],
    k: Float[Array, "B N H D"],
    v: Float[Array, "B N H D"],
    sizes: Int[ArrayLike, "b h N"],
    left_out: Bool[ArrayLike, "b h M N"],
    *,
    block_q: int,
    scale: float | None = None,
    epsilon: float = 0.0,
) -> tuple[Float32[Array, "B L H D"], Float32[Array, "B H L"]]:
    """Softmax attention of every query to the centroids that its block of queries counts.

    Differentiable in q, k and v. No array has queries times centroids: blocks of queries go through
    in chunks, and the backward pass computes a chunk again.

    Args:
      q: queries, in blocks of `block_q`; the last block may be short.
      k: mean keys of N blocks or clusters of any size.
      v: mean values, dtype of k.
      sizes: keys that each stands for, int32 [B|1, H|1, N]; one of none never counts.
      left_out: which of them a block of queries counts, bool [B|1, H|1, M, N], M = ceil(L / block_q).
      block_q: queries in a block.
      scale: factor on q . k, D**-0.5 by default.
      epsilon: added to sizes under the logarithm (SVG-EAR has 1e-6).

    Returns:
      out and lse, the natural log-sum-exp of the logits; a query that counts none has 0 and -inf.
    """
    (batch, length, heads, dim), count = q.shape, k.shape[1]
    rows = -(-length // block_q)
    if left_out.shape[-2:] != (rows, count) or sizes.shape[-1] != count:
        raise ValueError(
            f"left_out is {left_out.shape} and sizes {sizes.shape}; {length} queries in blocks of "
            f"{block_q} and {count} centroids need [B|1, H|1, {rows}, {count}] and [.., {count}]"
        )
    factor = np.float32(resolve_scale(scale, dim))
    sizes = jnp.asarray(sizes).astype(np.float32)
    bias = jnp.where(sizes > 0, jnp.log(jnp.maximum(sizes, 1) + np.float32(epsilon)), -jnp.inf)
    chunk = max(1, min(rows, _LOGITS // (block_q * count)))
    chunks = -(-rows // chunk)
    q = jnp.pad(q, ((0, 0), (0, chunks * chunk * block_q - length), (0, 0), (0, 0)))
    q = q.swapaxes(1, 2).reshape(batch * heads, chunks, chunk * block_q, dim)
    left_out = jnp.asarray(left_out)
    left_out = jnp.pad(left_out, ((0, 0), (0, 0), (0, chunks * chunk - rows), (0, 0)))
    left_out = left_out.reshape(*left_out.shape[:2], chunks, chunk, count)
    k, v = (x.swapaxes(1, 2).reshape(batch * heads, count, dim) for x in (k, v))

    # Head by head, so that a chunk's size is its own and products are large.
    def one_head(operands):
        index, q, k, v = operands
        own, far = (x[_entry(x, index, heads)] for x in (bias, left_out))
        k, v = (x.astype(np.float32) for x in (k, v))

        def attend(chunk):
            q, counted = chunk
            logits = jnp.einsum("qd,nd->qn", q.astype(np.float32), k) * factor + own[None]
            logits = jnp.where(jnp.repeat(counted, block_q, 0), logits, -jnp.inf)
            top = jax.lax.stop_gradient(logits.max(-1, keepdims=True))
            top = jnp.where(jnp.isfinite(top), top, 0)
            weights = jnp.exp(logits - top)
            total = weights.sum(-1, keepdims=True)
            some, total = total > 0, jnp.where(total > 0, total, 1)
            out = jnp.einsum("qn,nd->qd", weights / total, v)
            return out, jnp.where(some, top + jnp.log(total), -jnp.inf)[:, 0]

        # Inside of a scan nothing can be merged with the first computation: no barrier is needed.
        return jax.lax.map(jax.checkpoint(attend, prevent_cse=False), (q, far))

    numbers = jnp.arange(batch * heads, dtype=np.int32)
    out, lse = jax.lax.map(one_head, (numbers, q, k, v))
    out = out.reshape(batch, heads, -1, dim).swapaxes(1, 2)
    lse = lse.reshape(batch, heads, -1)
    return out[:, :length], lse[..., :length]


def _entry(x, index, heads):
    """Where x [B|1, H|1, ...] has what belongs to a head, counted over all rows."""
    place = index // np.int32(heads), index % np.int32(heads)
    return tuple(jnp.minimum(i, n - 1) for i, n in zip(place, x.shape, strict=False))


def block_means(
    x: Float[Array, "B L H D"], real: Bool[ArrayLike, "b h L"] | None, block: int
) -> Float32[Array, "B N H D"]:
    """Mean of the real tokens of each block; 0 where there are none.

    Args:
      x: in block order; the last block may be short.
      real: which tokens are, bool [B|1, H|1, L]; None: all.
      block: tokens in a block.
    """
    if real is not None:
        x = jnp.where(jnp.asarray(real).swapaxes(1, 2)[..., None], x, jnp.zeros((), x.dtype))
    batch, length, heads, dim = x.shape
    x = jnp.pad(x, ((0, 0), (0, -length % block), (0, 0), (0, 0)))
    total = x.reshape(batch, -1, block, heads, dim).sum(2, dtype=np.float32)
    sizes = block_sizes(real, length, block).swapaxes(1, 2)[..., None]
    return total / jnp.maximum(sizes, 1).astype(np.float32)


def block_sizes(real: Bool[ArrayLike, "b h L"] | None, length: int, block: int) -> jax.Array:
    """Real tokens of each block, int32 [B|1, H|1, N]; `real` as in `block_means`."""
    real = np.ones((1, 1, length), bool) if real is None else real
    real = jnp.pad(jnp.asarray(real), ((0, 0), (0, 0), (0, -length % block)))
    return real.reshape(*real.shape[:2], -1, block).sum(-1, dtype=np.int32)


def attend_left_out(
    q: Float[Array, "B L H D"],
    k: Float[Array, "B L H D"],
    v: Float[Array, "B L H D"],
    mask: BlockMask,
    q_order: Order,
    kv_order: Order,
    ctx: StepContext,
) -> tuple[Float32[Array, "B L H D"], Float32[Array, "B H L"]]:
    """(out, lse) of attention to the means of the blocks that `mask` does not keep, in raster order.

    Args:
      q: queries, raster order.
      k: keys.
      v: values.
      mask: of the blocks of the orders, as in `ops.attend_blocks`.
      q_order: block order of the queries; None is the raster order.
      kv_order: block order of the keys; None is `q_order`.
      ctx: the step's grid, text lengths and kernel options.

    Raises:
      ValueError: the tokens of a sequence are sharded.
    """
    if current() is not None:
        raise ValueError(
            f"compensation needs whole sequences, but {q.shape[2]} heads leave the tokens of one on "
            f"several devices; make the mesh's axis seq {q.shape[2]} or smaller"
        )
    kv_order = q_order if kv_order is None else kv_order
    mask = with_lengths(mask, q_order, kv_order, ctx)
    q = q if q_order is None else q_order.apply(q)
    k, v = (x if kv_order is None else kv_order.apply(x) for x in (k, v))
    real_q = _real(mask.real_queries(q.shape[1]), q_order, ctx)
    real_kv = _real(mask.real_keys(k.shape[1]), kv_order, ctx)
    if real_q is not None:
        q = jnp.where(jnp.asarray(real_q).swapaxes(1, 2)[..., None], q, jnp.zeros((), q.dtype))
    out, lse = attend_centroids(
        q,
        block_means(k, real_kv, mask.block_kv),
        block_means(v, real_kv, mask.block_kv),
        block_sizes(real_kv, k.shape[1], mask.block_kv),
        ~mask.to_dense(),
        block_q=mask.block_q,
        scale=ctx.kernel.scale,
    )
    if real_q is not None:  # merged by lse, such a query has no weight here
        lse = jnp.where(real_q, lse, -jnp.inf)
    return (out, lse) if q_order is None else (q_order.undo(out), q_order.undo(lse, axis=2))


def _real(of_mask: Any, order: Order, ctx: StepContext) -> Any:
    """Real tokens, bool [B|1, H|1, L]; in raster order text stands where the grid says."""
    grid, lengths = ctx.grid, ctx.text_lengths
    if of_mask is not None or order is not None or lengths is None or not grid.text_len:
        return of_mask
    place = np.arange(grid.num_tokens, dtype=np.int32)[None] - np.int32(grid.text_start)
    is_text = (place >= 0) & (place < grid.text_len)
    return (~is_text | (place < lengths[:, None]))[:, None]
