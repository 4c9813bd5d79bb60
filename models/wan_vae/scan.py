"""A clip in chunks: the first one apart, the others in one scan whose carry are the caches."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def scan_clip(
    step: Callable[[jax.Array, Any], tuple[jax.Array, Any]],
    chunk: Callable[[int | jax.Array], jax.Array],
    count: int,
    *,
    remat: bool = False,
) -> jax.Array:
    """Results of `step(chunk(i), cache) -> (result, cache)` for i in range(count), joined along axis 2.

    They are written into one array that the scan carries, so none of them exists twice.

    Args:
      step: gets the cache that the step before returned, None at first.
      chunk: gets the int 0 for the first chunk and a traced index for the others.
      count: chunks, at least 1.
      remat: keep only the caches for the backward pass and compute the rest of a step again.
    """
    if remat:
        step = jax.checkpoint(step)
    first, cache = step(chunk(0), None)
    if count == 1:
        return first
    rest, _ = jax.eval_shape(lambda i, cache: step(chunk(i), cache), jnp.int32(1), cache)
    start, each = first.shape[2], rest.shape[2]
    shape = (*first.shape[:2], start + (count - 1) * each, *first.shape[3:])
    out = jax.lax.dynamic_update_slice_in_dim(jnp.zeros(shape, first.dtype), first, 0, 2)

    def body(carry, i):
        cache, out = carry
        part, cache = step(chunk(i), cache)
        out = jax.lax.dynamic_update_slice_in_dim(out, part, start + (i - 1) * each, 2)
        return (cache, out), None

    (_, out), _ = jax.lax.scan(body, (cache, out), jnp.arange(1, count, dtype=jnp.int32))
    return out
