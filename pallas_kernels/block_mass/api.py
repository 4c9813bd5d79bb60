"""The public operation: checks, defaults, choice of implementation."""

import numpy as np
from jaxtyping import Array, Float, Float32, Int32

from .. import _checks, _dispatch
from .._values import whole
from ..block_mask import ArrayLike
from . import mosaic_gpu, reference, xla

IMPLEMENTATIONS = {
    "reference": reference.block_mass,
    "xla": xla.block_mass,
    "mosaic_gpu": mosaic_gpu.block_mass,
}
DEFAULT_ORDER = ("mosaic_gpu", "xla")


def block_mass(
    q: Float[Array, "B Lq H D"],
    k: Float[Array, "B Lk H D"],
    lse: Float32[Array, "B H Lq"],
    *,
    block_q: int,
    block_kv: int,
    scale: float | None = None,
    q_lengths: Int32[ArrayLike, "#B #H Nq"] | None = None,
    kv_lengths: Int32[ArrayLike, "#B #H Nk"] | None = None,
    implementation: str | None = None,
) -> Float32[Array, "B H Nq Nk"]:
    """Attention mass of every block pair: sum of exp(scale q k^T - lse) over the pair's tokens.

    Not differentiable: it serves to choose blocks.

    Args:
      q: [B, Lq, H, D], float32, bfloat16 or float16.
      k: [B, Lk, H, D], dtype of q.
      lse: float32 [B, H, Lq], natural log-sum-exp of the scaled logits from a dense pass, possibly
        of an earlier denoising step. A query whose lse is -inf has no mass.
      block_q: tokens in a query block.
      block_kv: tokens in a key block.
      scale: factor on the logits, D**-0.5 by default.
      q_lengths: int32 [B|1, H|1, Nq], real tokens at the start of each query block.
      kv_lengths: int32 [B|1, H|1, Nk], the same of each key block. Padding has no mass.
      implementation: "reference" (L x L memory), "xla", "mosaic_gpu" (Hopper), or None for the best
        one here.

    Returns:
      float32 [B, H, Nq, Nk]. When `lse` belongs to these q and k, a row sums to the number of real
      tokens in its query block.

    Raises:
      ValueError: shapes, dtypes, lengths or implementation name do not fit.

    Reference: AdaSpa (arXiv 2502.21079), the LSE-cached online search. Differs: ragged blocks.
    """
    _checks.check_same_attention_inputs(q, k=k)
    if lse.dtype != np.float32 or lse.shape != (q.shape[0], q.shape[2], q.shape[1]):
        raise ValueError(
            f"lse is {lse.dtype} {lse.shape}; it must be float32 [B, H, Lq] = "
            f"{(q.shape[0], q.shape[2], q.shape[1])}"
        )
    block_q, block_kv = whole("block_q", block_q, 1), whole("block_kv", block_kv, 1)
    for name, lengths, length, block in (
        ("q_lengths", q_lengths, q.shape[1], block_q),
        ("kv_lengths", kv_lengths, k.shape[1], block_kv),
    ):
        _checks.check_lengths(name, lengths, (0, 0, -(-length // block)), block)
        if lengths is not None:
            _checks.check_leading_axes(name, lengths.shape[:2], q)
    return _dispatch.call(
        "block_mass",
        IMPLEMENTATIONS,
        implementation,
        q,
        k,
        lse,
        block_q=block_q,
        block_kv=block_kv,
        scale=_checks.resolve_scale(scale, q.shape[-1]),
        q_lengths=q_lengths,
        kv_lengths=kv_lengths,
        default=DEFAULT_ORDER,
    )
