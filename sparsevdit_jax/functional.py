"""sparse_attention: one call, raster order in and out."""

import functools

import jax
from jaxtyping import Array, Float, Float32, Int

from pallas_kernels.block_mask import ArrayLike
from sparsevdit_jax.context import KernelOptions, StepContext
from sparsevdit_jax.engine import attend, check_inputs
from sparsevdit_jax.grid import VideoGrid
from sparsevdit_jax.pattern import AttentionPattern


def sparse_attention(
    q: Float[Array, "B L H D"],
    k: Float[Array, "B L H D"],
    v: Float[Array, "B L H D"],
    *,
    grid: VideoGrid,
    pattern: AttentionPattern,
    text_lengths: Int[ArrayLike, " B"] | None = None,
    scale: float | None = None,
    implementation: str | None = None,
    return_lse: bool = False,
) -> Float[Array, "B L H D"] | tuple[Float[Array, "B L H D"], Float32[Array, "B H L"]]:
    """softmax(scale q k^T) v over the token pairs that `pattern` keeps on `grid`.

    This is for patterns without a state. A pattern that searches, or has a table of steps, runs in a
    denoise loop: call ``pattern.init`` and `attend`. Differentiable in q, k and v.

    Args:
      q: [B, L, H, D] in raster order, after RoPE; float32, bfloat16 or float16.
      k: as q.
      v: as q.
      grid: shape of the sequence; L must be ``grid.num_tokens``.
      pattern: which pairs to keep.
      text_lengths: real text tokens of each row, int32 [B]; None: ``grid.text_len``. Tokens beyond
        are never read.
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
    kernel = KernelOptions(implementation, None if scale is None else float(scale))
    ctx = StepContext(grid, text_lengths=text_lengths, kernel=kernel)
    check_inputs(q, k, v, ctx)
    out, lse = _attend(q, k, v, ctx, pattern=pattern, with_lse=return_lse)
    if return_lse and lse is None:
        raise ValueError(f"{pattern} is no softmax, so it has no lse; leave out return_lse")
    return (out, lse) if return_lse else out


@functools.partial(jax.jit, static_argnames=("pattern", "with_lse"))
def _attend(q, k, v, ctx, *, pattern, with_lse):
    batch, _, heads, head_dim = q.shape
    state = pattern.init(ctx.grid, batch=batch, num_heads=heads, head_dim=head_dim)
    if jax.tree.leaves(state) or pattern.searches or pattern.num_steps not in (None, 1):
        raise ValueError(
            f"{type(pattern).__name__} changes between steps; use state = pattern.init(...) and "
            "attended = sparsevdit_jax.attend(pattern, q, k, v, state, ctx)"
        )
    attended = attend(pattern, q, k, v, state, ctx)
    return (
        attended.out,
        attended.lse if with_lse else None,
    )  # XLA then drops the work of putting it in raster order
