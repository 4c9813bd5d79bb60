"""The public operation: checks, defaults, choice of implementation."""

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int32

from .. import _checks, _dispatch
from .._values import whole
from ..block_mask import ArrayLike
from . import reference, xla
from .features import FEATURES

IMPLEMENTATIONS = {"reference": reference.linear_attention, "xla": xla.linear_attention}
DEFAULT_ORDER = ("xla",)


def linear_attention(
    q: Float[Array, "B Lq H D"],
    k: Float[Array, "B Lk H D"],
    v: Float[Array, "B Lk H D"],
    *,
    block_q: int,
    block_kv: int,
    pairs: Bool[ArrayLike, "#B #H Nq Nk"] | None = None,
    q_lengths: Int32[ArrayLike, "#B #H Nq"] | None = None,
    kv_lengths: Int32[ArrayLike, "#B #H Nk"] | None = None,
    feature_map: str = "softmax",
    eps: float = 1e-5,
    implementation: str | None = None,
) -> Float[Array, "B Lq H D"]:
    """phi(q) (sum of phi(k)^T v) / (eps + phi(q) (sum of phi(k))), sums over keys in chosen blocks.

    Differentiable in q, k and v. Time and memory are linear in Lk without `pairs`. With them, sums of
    each key block are added up for each query block: Nq Nk D^2 products, D / (2 block_q) of what dense
    attention of those pairs takes, one head at a time.

    Args:
      q: [B, Lq, H, D], float32, bfloat16 or float16.
      k: [B, Lk, H, D], dtype of q.
      v: as k.
      block_q: tokens in a query block.
      block_kv: tokens in a key block.
      pairs: bool [B|1, H|1, Nq, Nk], block pairs that count; None: all.
      q_lengths: int32 [B|1, H|1, Nq], real tokens at the start of each query block; None: all. The
        output of padding is 0.
      kv_lengths: int32 [B|1, H|1, Nk], the same of each key block. Padding is never read.
      feature_map: phi, in float32: "softmax" over the channels, "elu" (elu(x) + 1) or "relu".
      eps: added to the denominator.
      implementation: "reference" (Lq x Lk memory), "xla", or None for the best one here.

    Returns:
      [B, Lq, H, D] in the dtype of q; 0 for a query block without pairs.

    Raises:
      ValueError: shapes, dtypes, lengths or names do not fit.

    Reference: SLA (arXiv 2509.24006), equation 5, with the epsilon of the authors' code.
    """
    _checks.check_same_attention_inputs(q, k=k, v=v)
    block_q, block_kv = whole("block_q", block_q, 1), whole("block_kv", block_kv, 1)
    shape = (-(-q.shape[1] // block_q), -(-k.shape[1] // block_kv))
    if pairs is not None:
        if pairs.dtype != np.bool_ or pairs.ndim != 4 or pairs.shape[2:] != shape:
            raise ValueError(
                f"pairs is {pairs.dtype} {pairs.shape}; it must be bool [B|1, H|1, {shape[0]}, "
                f"{shape[1]}], one entry for each pair of blocks"
            )
        _checks.check_leading_axes("pairs", pairs.shape[:2], q)
    for name, lengths, count, block in (
        ("q_lengths", q_lengths, shape[0], block_q),
        ("kv_lengths", kv_lengths, shape[1], block_kv),
    ):
        _checks.check_lengths(name, lengths, (0, 0, count), block)
        if lengths is not None:
            _checks.check_leading_axes(name, lengths.shape[:2], q)
    if feature_map not in FEATURES:
        raise ValueError(f"{feature_map=} must be one of {', '.join(FEATURES)}")
    if isinstance(eps, jax.core.Tracer) or not 0 <= eps < np.inf:
        raise ValueError(f"{eps=} must be a number of at least 0; it keeps the result finite")
    return _dispatch.call(
        "linear_attention",
        IMPLEMENTATIONS,
        implementation,
        q,
        k,
        v,
        block_q=block_q,
        block_kv=block_kv,
        pairs=pairs,
        q_lengths=q_lengths,
        kv_lengths=kv_lengths,
        feature_map=feature_map,
        eps=float(eps),
        default=DEFAULT_ORDER,
    )
