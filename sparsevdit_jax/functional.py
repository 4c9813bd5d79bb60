"""sparse_attention: one call, raster order in and out."""

import functools

import jax

from sparsevdit_jax.grid import VideoGrid
from sparsevdit_jax.pattern import AttentionPattern, BlockSparsePattern, check_inputs
from sparsevdit_jax.patterns.per_head import PerHead
from sparsevdit_jax.patterns.table import Table
from sparsevdit_jax.schedule import Phase, StepContext


def sparse_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    grid: VideoGrid,
    pattern: AttentionPattern,
    text_lengths: jax.Array | None = None,
    scale: float | None = None,
    implementation: str | None = None,
    return_lse: bool = False,
):
    """softmax(scale q k^T) v over the token pairs that `pattern` keeps on `grid`.

    For patterns without state; one that searches or has a table of steps runs in a model's loop,
    through ``pattern.init`` and ``pattern.attend``. Differentiable in q, k and v.

    Args:
      q: [B, L, H, D] in raster order, after RoPE; float32, bfloat16 or float16.
      k: as q.
      v: as q.
      grid: shape of the sequence; L must be ``grid.num_tokens``.
      pattern: which pairs to keep.
      text_lengths: real text tokens of each row, int32 [B]; None: all of the room. What stands
        beyond is never read.
      scale: factor on the logits, D**-0.5 by default.
      implementation: name for the kernels; None lets them choose.
      return_lse: also return the log-sum-exp.

    Returns:
      out [B, L, H, D] in the dtype of q, zero for text beyond `text_lengths`; with `return_lse`,
      (out, lse) with lse float32 [B, H, L], the natural log-sum-exp of the scaled kept logits, -inf
      where nothing is kept.

    Raises:
      ValueError: shapes, dtypes, grid, lengths or names do not fit, or the pattern keeps state
        between steps.
    """
    ctx = StepContext(
        grid,
        Phase.REUSE,
        text_lengths=text_lengths,
        implementation=implementation,
        scale=None if scale is None else float(scale),
    )
    check_inputs(q, k, v, ctx)
    out, lse = _attend(q, k, v, ctx, pattern=pattern, with_lse=return_lse)
    return (out, lse) if return_lse else out


@functools.partial(jax.jit, static_argnames=("pattern", "with_lse"))
def _attend(q, k, v, ctx, *, pattern, with_lse):
    batch, _, heads, head_dim = q.shape
    state = pattern.init(ctx.grid, batch=batch, num_heads=heads, head_dim=head_dim)
    if jax.tree.leaves(state) or (isinstance(pattern, Table) and pattern.num_steps > 1):
        raise ValueError(
            f"{type(pattern).__name__} changes between steps; use state = pattern.init(...) and "
            "out, state = pattern.attend(q, k, v, state, ctx)"
        )
    if not with_lse:
        return pattern.attend(q, k, v, state, ctx)[0], None
    if not isinstance(pattern, BlockSparsePattern | PerHead):
        raise ValueError(
            f"{pattern} has no lse: it is not a BlockSparsePattern; leave out return_lse"
        )
    out, lse, _ = pattern.attend_with_lse(q, k, v, state, ctx)
    return out, lse
