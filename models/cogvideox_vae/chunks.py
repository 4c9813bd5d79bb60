"""Chunks of frames or latents one after another, each with the caches of the one before."""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp

Coder = Callable[[jax.Array, tuple | None], tuple[jax.Array, tuple]]


def chunk_lengths(length: int, size: int) -> list[int]:
    """Chunks of `size`; the first also takes what is left over: 13 in twos is [3, 2, 2, 2, 2, 2]."""
    count = max(length // size, 1)
    return [length - (count - 1) * size] + [size] * (count - 1)


def _run(coder: Coder, x: jax.Array, caches: tuple | None) -> tuple[jax.Array, tuple]:
    y, caches = coder(jnp.moveaxis(x, 1, -1), caches)
    return jnp.moveaxis(y, -1, 1), caches


# Compiled once per coder's structure and chunk's shape, for the whole process.
_chunk = jax.jit(_run)
# Nobody else holds the caches, so the new ones may take the old ones' memory; a gradient would still need them.
_chunk_in_place = jax.jit(_run, donate_argnums=(2,))


def is_traced(*trees) -> bool:
    """Whether a transformation (jit, grad, vmap) sees any of the arrays."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees))


def each_chunk(coder: Coder, x: jax.Array, size: int) -> Iterator[jax.Array]:
    """What `coder` makes of every chunk of x [B, C, T, H, W], in order."""
    step = _chunk if is_traced(coder, x) else _chunk_in_place
    start, caches = 0, None
    for length in chunk_lengths(x.shape[2], size):
        y, caches = step(coder, x[:, :, start : start + length], caches)
        start += length
        yield y


def all_chunks(coder: Coder, x: jax.Array, size: int) -> jax.Array:
    """The chunks of `each_chunk` as one array.

    Under a transformation the chunks after the first are one scan, so that they are compiled once there too.
    """
    if not is_traced(coder, x):
        return jnp.concatenate(list(each_chunk(coder, x, size)), 2)
    first, *others = chunk_lengths(x.shape[2], size)
    y, caches = _chunk(coder, x[:, :, :first], None)
    if not others:
        return y

    def body(caches, x):
        y, caches = _run(coder, x, caches)
        return caches, y

    rest = x[:, :, first:]
    rest = rest.reshape(*rest.shape[:2], len(others), size, *rest.shape[3:])
    _, ys = jax.lax.scan(body, caches, jnp.moveaxis(rest, 2, 0))
    ys = jnp.moveaxis(ys, 0, 2)
    return jnp.concatenate([y, ys.reshape(*ys.shape[:2], -1, *ys.shape[4:])], 2)
