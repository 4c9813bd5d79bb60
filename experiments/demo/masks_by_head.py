"""The mask of each head in one step of a run, and the share of the real attention that it keeps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from sparsevdit_jax import (
    AttentionPattern,
    AttentionPlan,
    Phase,
    StepContext,
    TokenOrder,
    VideoGrid,
)
from sparsevdit_jax.metrics import output_error
from sparsevdit_jax.token_order import slot_positions

STRIDE = 5
"""One query in so many is measured: a fifth of the work. It divides no side of the latent grid, so that every row and
column of the video, and every place in a tile, is among them."""

HeadMask = tuple[np.ndarray, TokenOrder | None]
"""keep, bool [Nq, Nk], and its block order; a head that is dense or skipped has one block and no order."""


def head_masks(
    pattern: AttentionPattern, state, grid: VideoGrid, *, num_heads: int, step: int
) -> list[HeadMask]:
    """The mask of each head of a layer in a step that reuses its masks, first batch row.

    Args:
      pattern: of the layer.
      state: the layer's, before the step.
      grid: of the sequence.
      num_heads: of the layer.
      step: index of the step.
    """
    parts = pattern.parts(grid, num_heads)
    if parts is not None:
        masks: dict[int, HeadMask] = {}
        for (member, heads), own in zip(parts, state, strict=True):
            found = head_masks(member, own, grid, num_heads=len(heads), step=step)
            masks |= dict(zip(heads, found, strict=True))
        return [masks[head] for head in range(num_heads)]
    members = pattern.at_step(step, num_heads)
    if all(member.is_static for member in members):
        return [_of_plan(member.static_plan(grid, 1), 1)[0] for member in members]
    tokens = jax.ShapeDtypeStruct((1, grid.num_tokens, num_heads, 1), np.float32)
    plan, _ = pattern.plan(tokens, tokens, state, StepContext(grid, Phase.REUSE, step))
    return _of_plan(plan, num_heads)


def _of_plan(plan: AttentionPlan, num_heads: int) -> list[HeadMask]:
    """The masks of a plan whose order is one for all heads."""
    keep = np.asarray(plan.mask.to_dense())[0]
    return [(k, plan.q_order) for k in np.broadcast_to(keep, (num_heads, *keep.shape[1:]))]


def density(mask: HeadMask) -> float:
    """Kept / all pairs of real tokens, text included."""
    keep, order = mask
    if order is None:
        return float(keep.mean())
    tokens = order.lengths()[0, 0].astype(float)
    return float(tokens @ keep @ tokens / tokens.sum() ** 2)


def head_quality(masks: list[HeadMask], qkv, *, stride: int = STRIDE) -> dict[str, np.ndarray]:
    """density, recall and output error of each head [H] of a layer under `masks`, on q, k, v [1, L, H, D].

    Recall and error are those of every `stride`-th query.
    """
    length, size = qkv[0].shape[1], max(keep.shape[0] for keep, _ in masks)
    keep = np.zeros((len(masks), size, size), bool)
    blocks = np.zeros((len(masks), length), np.int32)
    for head, (own, order) in enumerate(masks):
        keep[head, : own.shape[0], : own.shape[1]] = own
        if order is not None:
            blocks[head] = slot_positions(order) // order.block
    recall, error = _under_masks(*qkv, keep, blocks, stride=stride)
    found = dict(density=[density(mask) for mask in masks], recall=recall[0], error=error[0])
    return {name: np.asarray(value, np.float64) for name, value in found.items()}


@functools.partial(jax.jit, static_argnames="stride")
def _under_masks(q, k, v, keep, blocks, *, stride):
    """Recall and output error, f32 [1, H], of softmax attention over the pairs in `keep` alone.

    Args:
      q, k, v: [1, L, H, D].
      keep: bool [H, N, N], by block of the query and of the key.
      blocks: int32 [H, L], the block of each token.
    """

    def head(q, k, v, keep, blocks):  # of [L, D]; one head at a time, so that memory stays small
        q, rows = q[::stride], blocks[::stride]
        dot = functools.partial(jnp.matmul, preferred_element_type=jnp.float32)
        probability = jax.nn.softmax(dot(q, k.T) * np.float32(q.shape[-1] ** -0.5), axis=-1)
        kept = jnp.where(keep[rows][:, blocks], probability, 0.0)
        mass = kept.sum(-1, keepdims=True)
        exact = dot(probability.astype(v.dtype), v)
        out = dot(kept.astype(v.dtype), v) / jnp.maximum(mass, np.finfo(np.float32).tiny)
        return mass.mean(), out, exact

    heads = [jnp.moveaxis(x[0], 1, 0) for x in (q, k, v)]
    mass, out, exact = jax.lax.map(lambda args: head(*args), (*heads, keep, blocks))
    out, exact = (jnp.moveaxis(x, 0, 1)[None] for x in (out, exact))
    return mass[None], output_error(out, exact)
