"""The public operation: checks, defaults, choice of implementation."""

from jaxtyping import Array, Float, Float32, Int32

from .. import _checks, _dispatch
from ..block_mask import ArrayLike
from . import cudnn, mosaic_gpu, reference, triton, xla

IMPLEMENTATIONS = {
    "reference": reference.dense_attention,
    "xla": xla.dense_attention,
    "cudnn": cudnn.dense_attention,
    "mosaic_gpu": mosaic_gpu.dense_attention,
    "triton": triton.dense_attention,
}
DEFAULT_ORDER = ("cudnn", "mosaic_gpu", "triton", "xla")


def dense_attention(
    q: Float[Array, "B Lq H D"],
    k: Float[Array, "B Lk H D"],
    v: Float[Array, "B Lk H D"],
    *,
    scale: float | None = None,
    q_lengths: Int32[ArrayLike, " B"] | None = None,
    kv_lengths: Int32[ArrayLike, " B"] | None = None,
    implementation: str | None = None,
) -> tuple[Float[Array, "B Lq H D"], Float32[Array, "B H Lq"]]:
    """out = softmax(scale q k^T) v over all real keys, with its log-sum-exp.

    Args:
      q: [B, Lq, H, D], float32, bfloat16 or float16.
      k: [B, Lk, H, D], dtype of q.
      v: [B, Lk, H, D], dtype of q.
      scale: factor on the logits, D**-0.5 by default.
      q_lengths: int32 [B], real tokens at the start of each row of q; the rest is padding.
      kv_lengths: int32 [B], the same of k and v.
      implementation: "reference" (exact, L x L memory), "xla" (chunked), "cudnn" (NVIDIA GPUs,
        16-bit inputs), "mosaic_gpu" (Hopper GPUs, 16-bit, head dim 64 or 128), "triton" (GPUs), or
        None for the best one here.

    Returns:
      out [B, Lq, H, D] in the dtype of q, and lse float32 [B, H, Lq], the natural log-sum-exp of
      the scaled logits. Padded queries, and rows with no real key, have out 0 and lse -inf.

    Raises:
      ValueError: shapes, dtypes, lengths or implementation name do not fit.
    """
    _checks.check_same_attention_inputs(q, k=k, v=v)
    _checks.check_lengths("q_lengths", q_lengths, q.shape[:1], q.shape[1])
    _checks.check_lengths("kv_lengths", kv_lengths, k.shape[:1], k.shape[1])
    scale = _checks.resolve_scale(scale, q.shape[-1])
    return _dispatch.call(
        "dense_attention",
        IMPLEMENTATIONS,
        implementation,
        q,
        k,
        v,
        scale=scale,
        q_lengths=q_lengths,
        kv_lengths=kv_lengths,
        default=DEFAULT_ORDER,
    )
