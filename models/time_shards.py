"""Shards the frames of a clip over devices, for layers that look back in time.

Each device holds a run of frames. A layer remembers the last frames of the chunk before; here it gets the last frames
of its neighbour instead, and the first device those of the last device one turn before. No other overlap is needed,
and the result is exact. To decode a margin twice instead would take about 35 latent frames for Wan, more than most
clips have.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from pallas_kernels._pytree import pytree, static
from sparsevdit_jax.parallel import whole

from .vae_devices import vae_axes, vae_devices


@pytree
class Halo:
    """A layer's memory under `jax.shard_map`: each device's frames follow those of the device before.

    Attributes:
      first: [B, k, ...], the frames before those of the first device; the other devices do not use it.
      goes_on: whether more frames follow, so that the last device passes its last frames on.
    """

    first: jax.Array
    goes_on: bool = static()


def after_past(cache: jax.Array | Halo, x: jax.Array) -> tuple[jax.Array, jax.Array | Halo]:
    """x with the frames before it, from a cache or from what a `Halo` stands for, and the next cache.

    Args:
      cache: [B, k, ...], or a `Halo` of that.
      x: [B, T, ...]; with a `Halo` T >= k.

    Returns:
      [B, k + T, ...], and the cache for the frames after x.
    """
    if not isinstance(cache, Halo):
        count = cache.shape[1]
        x = jnp.concatenate([cache, x], 1)
        return x, x[:, -count:]
    names, count = vae_axes(), cache.first.shape[1]
    n = jax.lax.axis_size(names)
    to_next = [(i, i + 1) for i in range(n - 1)] + [(n - 1, 0)] * cache.goes_on
    left = jax.lax.ppermute(x[:, -count:], names, to_next)
    past = jnp.where(jax.lax.axis_index(names) == 0, cache.first, left)
    return jnp.concatenate([past, x], 1), Halo(left, goes_on=cache.goes_on)


def spread_clip(
    step: Callable[[Any, jax.Array, Any], tuple[jax.Array, Any]],
    model: Any,
    z: jax.Array,
    *,
    first: int,
    unit: int,
    least: int,
) -> jax.Array:
    """Decodes a clip with `step`: the first chunk on every device, then runs of the other chunks, one on each device.

    Runs are short, and each device gets several, one after the other. So a device holds the activations of one run,
    however long the clip is.

    Args:
      step: `step(model, z, cache)` of latents [B, C, t, h, w] to frames [B, c, f, H, W] and the new cache, which is
        None for the first chunk and then of arrays or of a `Halo` for each.
      model: replicated.
      z: [B, C, T, h, w].
      first: latents of the first chunk, less than T.
      unit: what the latents of a run are a multiple of.
      least: latents of a run that hold all that the next one looks back at.
    """
    names, n = vae_axes(), vae_devices()
    length = z.shape[2] - first
    # The run that adds least. Latents added at the end change no frame before theirs.
    runs = range(least, 2 * least, unit)
    per_turn = min((n * run for run in runs), key=lambda t: (-length % t, t))
    added = -length % per_turn
    turns = (length + added) // per_turn
    rest = jnp.pad(z[:, :, first:], ((0, 0), (0, 0), (0, added), (0, 0), (0, 0)))

    def on_a_device(model, z, rest):
        def turn(cache, z):
            frames, cache = step(model, z, cache)
            return cache, frames

        head, cache = step(model, z, None)
        cache = jax.tree.map(lambda first: Halo(first, goes_on=turns > 1), cache)
        return head, jax.lax.scan(turn, cache, rest)[1]

    by_time = PartitionSpec(None, None, None, names)
    head, frames = jax.shard_map(
        on_a_device,
        in_specs=(PartitionSpec(), PartitionSpec(), by_time),
        out_specs=(PartitionSpec(), by_time),
        check_vma=False,
    )(model, z[:, :, :first], _split_time(rest, turns))
    frames = _join_time(whole(frames))
    kept = frames.shape[2] * length // (length + added)
    return jnp.concatenate([head, frames[:, :, :kept]], 2)


def _split_time(x: jax.Array, parts: int) -> jax.Array:
    """[B, C, T, ...] to [parts, B, C, T / parts, ...]."""
    return jnp.moveaxis(x.reshape(*x.shape[:2], parts, -1, *x.shape[3:]), 2, 0)


def _join_time(x: jax.Array) -> jax.Array:
    """The inverse of `_split_time`."""
    x = jnp.moveaxis(x, 0, 2)
    return x.reshape(*x.shape[:2], -1, *x.shape[4:])
