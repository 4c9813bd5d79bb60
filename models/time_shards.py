"""Frames of a clip spread over devices, for layers that look back in time.

Each device holds a run of frames; a layer's memory, elsewhere the last frames of the chunk before, is then the last
frames of the neighbour. That is all the overlap there has to be, exact whatever the layers above see: to decode a
margin twice instead would take some 35 latent frames of it for Wan, more than most clips have.
"""

import jax
import jax.numpy as jnp

from pallas_kernels._pytree import pytree
from sparsevdit_jax.parallel.mesh import current


def time_devices(frames: int, *, least: int) -> int:
    """Devices over which to spread frames of a clip, at least `least` on each; 0 without a mesh that can."""
    shards = current()
    if shards is None or shards.tokens == 1 or -(-frames // shards.tokens) < least:
        return 0
    return shards.tokens


@pytree
class Halo:
    """A layer's memory under `jax.shard_map` over `seq`.

    Attributes:
      first: [B, k, ...], the frames before the first device's.
    """

    first: jax.Array


def frames_before(cache: jax.Array | Halo, x: jax.Array) -> jax.Array:
    """The frames [B, k, ...] before x [B, T, ...]: a cache as it is, or what a `Halo` stands for (T >= k)."""
    if not isinstance(cache, Halo):
        return cache
    count, n = cache.first.shape[1], jax.lax.axis_size("seq")
    left = jax.lax.ppermute(x[:, -count:], "seq", [(i, i + 1) for i in range(n - 1)])
    return jnp.where(jax.lax.axis_index("seq") == 0, cache.first, left)
