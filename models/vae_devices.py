"""The devices of a mesh over which an autoencoder works."""

import math

import jax

from sparsevdit_jax.parallel.mesh import current

_AXES = ("cfg", "seq")


def vae_axes() -> tuple[str, ...]:
    """The present mesh's axes over which a clip is sharded: `cfg` too, because an autoencoder has no guidance.

    Not `data`: its groups of devices each work on all clips.
    """
    return tuple(name for name in _AXES if name in jax.sharding.get_abstract_mesh().axis_names)


def vae_devices() -> int:
    """How many devices `vae_axes` have; 1 without a mesh, and inside of `jax.shard_map`."""
    if current() is None:
        return 1
    shape = jax.sharding.get_abstract_mesh().shape
    return math.prod(shape[name] for name in vae_axes())
