"""The public operation: checks, defaults, choice of implementation."""

from jaxtyping import Array, Float, Float32

from .. import _checks, _dispatch
from .._values import share
from ..block_mask import BlockMask
from . import mosaic_gpu, reference, triton, xla

IMPLEMENTATIONS = {
    "reference": reference.block_sparse_attention,
    "xla": xla.block_sparse_attention,
    "mosaic_gpu": mosaic_gpu.block_sparse_attention,
    "triton": triton.block_sparse_attention,
}
DEFAULT_ORDER = ("mosaic_gpu", "triton", "xla")


def block_sparse_attention(
    q: Float[Array, "B Lq H D"],
    k: Float[Array, "B Lk H D"],
    v: Float[Array, "B Lk H D"],
    mask: BlockMask,
    *,
    scale: float | None = None,
    implementation: str | None = None,
    skip_below: float | None = None,
) -> tuple[Float[Array, "B Lq H D"], Float32[Array, "B H Lq"]]:
    """out = softmax(scale q k^T) v over the key/value blocks listed for each query block.

    Softmax and accumulation are float32 for every input dtype. Differentiable in q, k and v
    through both results; the same inputs give the same bits, forward and backward, and a head
    gives the same bits alone as among others.

    Args:
      q: [B, Lq, H, D], float32, bfloat16 or float16.
      k: [B, Lk, H, D], dtype of q; Lk need not equal Lq.
      v: [B, Lk, H, D], dtype of q.
      mask: lists for ceil(Lq / block_q) by ceil(Lk / block_kv) blocks. Its lengths mark padding,
        whose contents, finite or not, change nothing.
      scale: factor on the logits, D**-0.5 by default.
      implementation: "reference" (exact, L x L memory), "xla", "mosaic_gpu" (Hopper GPUs, 16-bit,
        head dim 64 or 128, blocks of multiples of 64), "triton" (other GPUs), or None for the best
        one here.
      skip_below: skip-softmax (BLASST): a query block walks its listed key blocks by number, and
        leaves a block out of the softmax where, for all of its real queries, every weight is below
        this share of the largest so far, the block's own included. Gradients are those of the blocks
        that stay. "reference" and "xla" take it; the latter finds the blocks in a pass of its own, so
        that it costs time and saves none yet. None: no block is left out.

    Returns:
      out [B, Lq, H, D] in the dtype of q, and lse float32 [B, H, Lq], the natural log-sum-exp of
      the scaled logits that were kept. A query that is padding, or keeps no real key, has out 0,
      lse -inf and gives zero gradients.

    Raises:
      ValueError: shapes, dtypes, mask or implementation name do not fit.
      NotImplementedError: the implementation that was asked for cannot take this call here.
    """
    _checks.check_same_attention_inputs(q, k=k, v=v)
    _checks.check_blocks("query", q.shape[1], mask.block_q, mask.num_q_blocks)
    _checks.check_blocks("key/value", k.shape[1], mask.block_kv, mask.num_kv_blocks)
    _checks.check_leading_axes("mask", mask.batch_and_heads, q)
    scale = _checks.resolve_scale(scale, q.shape[-1])
    if skip_below is not None:
        skip_below = share("skip_below", skip_below, remedy="None skips nothing")
    return _dispatch.call(
        "block_sparse_attention",
        IMPLEMENTATIONS,
        implementation,
        q,
        k,
        v,
        mask,
        scale=scale,
        skip_below=skip_below,
        default=DEFAULT_ORDER,
    )
