"""Chunks of frames or latents one after another, each with the cache of the one before."""

import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp

from ..time_shards import spread_clip
from ..vae_devices import vae_devices
from ..video_vae import channels_last, channels_second, scan_clip

Coder = Callable[[jax.Array, tuple | None], tuple[jax.Array, tuple]]


def chunk_lengths(length: int, size: int) -> list[int]:
    """Chunks of `size`; the first also takes what is left over: 13 in twos is [3, 2, 2, 2, 2, 2]."""
    count = max(length // size, 1)
    return [length - (count - 1) * size] + [size] * (count - 1)


def _run(coder: Coder, x: jax.Array, cache: tuple | None) -> tuple[jax.Array, tuple]:
    y, cache = coder(channels_last(x), cache)
    return channels_second(y), cache


# Compiled once per coder's structure and chunk's shape, for the whole process.
_chunk = jax.jit(_run)
# Nobody else holds the cache, so the new one may take the old one's memory; a gradient would still need it.
_chunk_in_place = jax.jit(_run, donate_argnums=(2,))
_spread = jax.jit(spread_clip, static_argnames=("step", "first", "unit", "least"))


def is_traced(*trees) -> bool:
    """Whether a transformation (jit, grad, vmap) sees any of the arrays."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees))


def each_chunk(coder: Coder, x: jax.Array, size: int) -> Iterator[jax.Array]:
    """What `coder` makes of every chunk of x [B, C, T, H, W], in order."""
    step = _chunk if is_traced(coder, x) else _chunk_in_place
    start, cache = 0, None
    for length in chunk_lengths(x.shape[2], size):
        y, cache = step(coder, x[:, :, start : start + length], cache)
        start += length
        yield y


def all_chunks(coder: Coder, x: jax.Array, size: int) -> jax.Array:
    """The chunks of `each_chunk` as one array.

    Under a transformation the chunks after the first are one scan, so that they are compiled once there too; under a
    mesh as many as it has devices are computed at a time.
    """
    first, *others = chunk_lengths(x.shape[2], size)
    if others and vae_devices() > 1:
        return _spread(_run, coder, x, first=first, unit=size, least=size)
    if not is_traced(coder, x):
        return jnp.concatenate(list(each_chunk(coder, x, size)), 2)

    def chunk(i):
        start, length = (0, first) if isinstance(i, int) else (first + (i - 1) * size, size)
        return jax.lax.dynamic_slice_in_dim(x, start, length, 2)

    return scan_clip(functools.partial(_chunk, coder), chunk, 1 + len(others))
