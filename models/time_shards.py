"""Frames of a clip spread over devices, for layers that look back in time.

Each device holds a run of frames; a layer's memory, elsewhere the last frames of the chunk before, is then the last
frames of the neighbour. That is all the overlap there has to be, exact whatever the layers above see: to decode a
margin twice instead would take some 35 latent frames of it for Wan, more than most clips have.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from pallas_kernels._pytree import pytree
from sparsevdit_jax.parallel import whole

from .vae_devices import vae_axes, vae_devices


@pytree
class Halo:
    """A layer's memory under `jax.shard_map`: rows are runs of frames that follow each other, on and across devices.

    Attributes:
      first: [B, k, ...], the frames before the first device's.
    """

    first: jax.Array


def frames_before(cache: jax.Array | Halo, x: jax.Array) -> jax.Array:
    """The frames before each row of x: a cache as it is, or what a `Halo` stands for.

    Args:
      cache: [B, k, ...], or a `Halo` of that.
      x: [B, T, ...]; with a `Halo` [B * runs, T, ...], T >= k.

    Returns:
      [rows of x, k, ...].
    """
    if not isinstance(cache, Halo):
        return cache
    batch, count, *inner = cache.first.shape
    names = vae_axes()
    n = jax.lax.axis_size(names)
    last = x[:, -count:].reshape(batch, -1, count, *inner)
    left = jax.lax.ppermute(last[:, -1], names, [(i, i + 1) for i in range(n - 1)])
    left = jnp.where(jax.lax.axis_index(names) == 0, cache.first, left)
    return jnp.concatenate([left[:, None], last[:, :-1]], 1).reshape(-1, count, *inner)


def spread_clip(
    step: Callable[[Any, jax.Array, Any], tuple[jax.Array, Any]],
    model: Any,
    z: jax.Array,
    *,
    first: int,
    unit: int,
) -> jax.Array:
    """The frames that `step` makes of a clip: its first chunk on every device, of the others a run on each.

    Args:
      step: `step(model, z, cache)` of latents [B, C, t, h, w] to frames [B, c, f, H, W] and the new cache, which is
        None for the first chunk and then of arrays or of a `Halo` for each.
      model: whole on every device.
      z: [B, C, T, h, w].
      first: latents of the first chunk, less than T.
      unit: what latents on a device are a multiple of.
    """
    names = vae_axes()
    head, cache = step(model, z[:, :, :first], None)
    rest = z[:, :, first:]
    # Latents added at the end to divide change no frame before theirs.
    extra = -rest.shape[2] % (unit * vae_devices())
    padded = jnp.pad(rest, ((0, 0), (0, 0), (0, extra), (0, 0), (0, 0)))

    def run(model, z, cache):
        return step(model, z, jax.tree.map(Halo, cache))[0]

    by_time = PartitionSpec(None, None, names)
    frames = jax.shard_map(
        run,
        in_specs=(PartitionSpec(), by_time, PartitionSpec()),
        out_specs=by_time,
        check_vma=False,
    )(model, padded, cache)
    kept = frames.shape[2] * rest.shape[2] // padded.shape[2]
    return jnp.concatenate([head, whole(frames)[:, :, :kept]], 2)
