"""Merges softmax attention over several sets of keys by the lse of each set."""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32


def merge_by_lse(
    parts: Iterable[tuple[Float[Array, "B L H D"], Float32[Array, "B H L"]]],
) -> tuple[Float32[Array, "B L H D"], Float32[Array, "B H L"]]:
    """Attention over the union of key sets: out = sum_i exp(lse_i - lse) out_i.

    Equal to one softmax over all the keys, up to rounding, and so are the gradients: those through
    each lse are part of it. Two sets that share a key count it twice.

    Args:
      parts: (out [B, L, H, D], lse float32 [B, H, L]) of each set, as the attention ops of
        `pallas_kernels` return them; -inf marks a query without keys in that set.

    Returns:
      out float32 [B, L, H, D] and lse float32 [B, H, L] of the union.

    Raises:
      ValueError: no parts.

    Reference: FlashAttention (arXiv 2205.14135), section 3.1, for more than two sets.
    """
    parts = list(parts)
    if not parts:
        raise ValueError("parts=[] has no attention to merge; give one (out, lse) at least")
    lses = [lse for _, lse in parts]
    top = lses[0]
    for lse in lses[1:]:
        top = jnp.maximum(top, lse)
    top = jax.lax.stop_gradient(top)  # any value gives the same results; this one cannot overflow
    top = jnp.where(jnp.isfinite(top), top, 0)
    weights = [jnp.exp(lse - top) for lse in lses]
    total = sum(weights[1:], weights[0])
    some = total > 0
    total = jnp.where(some, total, 1)

    def weighted(out, weight):
        return out.astype(np.float32) * (weight / total).swapaxes(1, 2)[..., None]

    outs = [weighted(out, weight) for (out, _), weight in zip(parts, weights, strict=True)]
    return sum(outs[1:], outs[0]), jnp.where(some, top + jnp.log(total), -jnp.inf)
