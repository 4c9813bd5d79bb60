"""Decodes latents to the video: on a mesh or one device, whole or in tiles, in the first way that fits."""

import dataclasses
import itertools
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from experiments import hosts
from experiments.generation.weights import Weights
from models.pipelines import Clip, LatentFamily
from models.tiling import Tile

_SHARE = 0.9
"""Of a device's memory that decoding may take before the next way is tried."""


@dataclasses.dataclass(frozen=True)
class Decoding:
    """One way.

    Attributes:
      family: of the model.
      clip: to decode.
      mesh: of the run.
      tile: None is whole pictures.
      peak: bytes that a device holds: of the whole video on a mesh, of what decoding holds at a time beside it on one.
      program: on the mesh, of all frames; None decodes on the first process's first device, a few frames at a time.
    """

    family: LatentFamily
    clip: Clip
    mesh: Mesh | None
    tile: Tile | None
    peak: int
    program: Any = None

    @property
    def tiled(self) -> bool:
        """Whether pictures are cut."""
        if self.tile is None:
            return False
        sides = (self.clip.height, self.tile.height), (self.clip.width, self.tile.width)
        return any(most is not None and size > most for size, most in sides)

    def video(self, vae: Any, x: jax.Array) -> np.ndarray | None:
        """Denoised latents to uint8 [frames, height, width, 3] on the first process; every process must call it."""
        if self.program is None:
            if not hosts.is_first():
                return None
            if self.mesh is not None:
                vae, x = hosts.here((vae, x))
            parts = self.family.frames(vae, x, self.clip, tile=self.tile)
            return np.concatenate(list(parts))[: self.clip.frames]
        with jax.set_mesh(self.mesh):
            parts = self.family.frames(vae, x, self.clip, decode=self._on_all_devices)
            first = next(parts)  # after which the devices have nothing more to do
            if not hosts.is_first():
                return None
            return np.concatenate([first, *parts])[: self.clip.frames]

    def _on_all_devices(self, vae, z) -> np.ndarray:
        return np.asarray(hosts.here(self.program(vae, z)))


def choose_decoding(
    family: LatentFamily,
    clip: Clip,
    weights: Weights,
    mesh: Mesh | None,
    *,
    tile: str,
    limit: int | None,
) -> Decoding:
    """The first way that fits: whole pictures before tiles, which change them, and all devices before one.

    Args:
      family: of the model.
      clip: to decode.
      weights: of the run.
      mesh: of the run.
      tile: "on", "off", or "auto" for either (a family that always works in tiles keeps to them).
      limit: bytes of a device; None where nobody knows.

    Returns:
      The last way where none fits.
    """
    tiles = {"on": [family.tiling()], "off": [family.untiled()], "auto": [None, family.tiling()]}[
        tile
    ]
    if len({family.probe(clip, each) for each in tiles}) == 1:
        tiles = tiles[-1:]  # HunyuanVideo's is always cut
    alone = mesh is None or mesh.size == 1
    way = None
    for each, spread in itertools.product(tiles, [False] if alone else [True, False]):
        way = (_spread if spread else _alone)(family, clip, weights, mesh, each)
        if limit is None or way.peak <= _SHARE * limit:
            break
    assert way is not None
    return way


def _alone(family, clip, weights, mesh, tile) -> Decoding:
    z = jax.ShapeDtypeStruct(family.probe(clip, tile), weights.vae_dtype)
    vae = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), weights.planned_vae())
    program = jax.jit(lambda vae, z: vae.decode(z)).lower(vae, z).compile()
    return Decoding(family, clip, mesh, tile, _peak(program))


def _spread(family, clip, weights, mesh, tile) -> Decoding:
    def decode(vae, z):
        (video,) = vae.decode_chunks(z, tile=tile)
        return video

    shape = (1, family.latent_channels, *family.latent_size(clip))
    z = jax.ShapeDtypeStruct(shape, weights.vae_dtype, sharding=weights.everywhere)
    with jax.set_mesh(mesh):
        jitted = jax.jit(decode, out_shardings=weights.everywhere)
        program = jitted.lower(weights.planned_vae(), z).compile()
    return Decoding(family, clip, mesh, tile, _peak(program), program)


def _peak(program) -> int:
    plan = program.memory_analysis()
    return plan.argument_size_in_bytes + plan.temp_size_in_bytes + plan.output_size_in_bytes
