"""CogVideoXVAE: CogVideoX's video autoencoder, four frames by eight by eight pixels to one latent."""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from flax import nnx

from .chunks import all_chunks, each_chunk
from .config import CogVideoXVAEConfig
from .decoder import Decoder
from .encoder import Encoder
from .tiling import Axis, Tile, cut, join
from .weights import KEYS

# Group norms take their statistics over a chunk, so these lengths are part of the function.
LATENTS_PER_CHUNK, FRAMES_PER_CHUNK = 2, 8


class CogVideoXVAE(nnx.Module):
    """Causal 3-D autoencoder that codes a clip chunk by chunk: 8 frames, 2 latents.

    What is left over goes to the first chunk. T latents give 4T frames if T is even and 4T - 3 if it is odd; F frames
    give F/4 latents, or (F + 3)/4 if F is 4k + 1. Both ways give a clip its own length if F is 8k or 8k + 1.
    Convolutions run in `dtype`, norms in float32, as the original does under torch_dtype=`dtype`.

    Source: diffusers' AutoencoderKLCogVideoX. Differs: other numbers of frames, and heights and widths that are no
    multiples of 8, are refused, where the original shares frames unevenly and drops pixels.
    """

    CLASS_NAME = "AutoencoderKLCogVideoX"
    KEYS = KEYS
    config_class = CogVideoXVAEConfig

    def __init__(self, config: CogVideoXVAEConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
        self.config, self.dtype = config, dtype
        self.encoder = Encoder(config, dtype=dtype, rngs=rngs)
        self.decoder = Decoder(config, dtype=dtype, rngs=rngs)

    def decode(self, z: jax.Array, *, tile: Tile | None = None) -> jax.Array:
        """Latents to a video.

        Args:
          z: [B, latent_channels, T, h, w], as `encode` gives them (not normalized).
          tile: cut the latents into overlapping tiles, decode one after another and blend: less memory, and other
            numbers, for norms see only their tile. `config.tile` is diffusers' choice. No effect if one tile holds z.

        Returns:
          [B, out_channels, frames, 8h, 8w] in the model's dtype, about -1 to 1, not clipped.

        Raises:
          ValueError: z has another rank or other channels, is empty or not floating, or the tile does not divide.
        """
        axes = self._decode_axes(z, tile)
        return _tiled(lambda z: all_chunks(self.decoder, z, LATENTS_PER_CHUNK), z, axes)

    def decode_chunks(self, z: jax.Array, *, tile: Tile | None = None) -> Iterator[jax.Array]:
        """The frames of `decode`, bit by bit, in parts of 8 (the first also 1 or 9) as they become known.

        Beside the part it holds the caches alone, whatever the clip's length; with tiles, those of all tiles.
        """
        axes = self._decode_axes(z, tile)  # here, so that errors come from the call itself
        if axes is None:
            return each_chunk(self.decoder, z, LATENTS_PER_CHUNK)
        return self._joined_chunks(cut(z, axes), axes)

    def _joined_chunks(self, rows: list, axes: tuple[Axis, Axis]) -> Iterator[jax.Array]:
        streams = [[self.decode_chunks(piece) for piece in row] for row in rows]
        for chunks in zip(*(stream for row in streams for stream in row), strict=True):
            parts = iter(chunks)
            yield join([[next(parts) for _ in row] for row in streams], axes)

    def encode(self, video: jax.Array, *, tile: Tile | None = None) -> tuple[jax.Array, jax.Array]:
        """A video to the distribution of its latents.

        Args:
          video: [B, in_channels, F, H, W], floating, -1 to 1; F is 4k or 4k + 1, H and W multiples of 8.
          tile: as in `decode`.

        Returns:
          Mean and log variance [B, latent_channels, T, H/8, W/8] in the model's dtype; the log variance is clipped
          to [-30, 20].

        Raises:
          ValueError: the video has another rank, other channels or sizes, or is not floating.
        """
        axes = self._encode_axes(video, tile)
        parameters = _tiled(lambda x: all_chunks(self.encoder, x, FRAMES_PER_CHUNK), video, axes)
        mean, logvar = jnp.split(parameters, 2, 1)
        return mean, logvar.clip(-30.0, 20.0)

    def normalize(self, z: jax.Array) -> jax.Array:
        """Latents of `encode` to those the transformer is conditioned on: times `scaling_factor`.

        With `invert_scale_latents` divided by it, as diffusers' image-to-video pipeline does for version 1.5:
        then it is `denormalize` itself, not its inverse.
        """
        if self.config.invert_scale_latents:
            return self.denormalize(z)
        return self.config.scaling_factor * z

    def denormalize(self, z: jax.Array) -> jax.Array:
        """Latents of the transformer to those `decode` takes: divided by `scaling_factor`, inverted or not."""
        return 1 / self.config.scaling_factor * z

    def _decode_axes(self, z: jax.Array, tile: Tile | None) -> tuple[Axis, Axis] | None:
        _check(z, "z", "latent_channels", self.config.latent_channels)
        if tile is None:
            return None
        return _if_larger(z, tile.latent_axes(self.config.spatial_ratio))

    def _encode_axes(self, video: jax.Array, tile: Tile | None) -> tuple[Axis, Axis] | None:
        _check(video, "video", "in_channels", self.config.in_channels)
        frames, *size = video.shape[2:]
        ratio = self.config.spatial_ratio
        if frames % 4 > 1:
            raise ValueError(
                f"a video of {frames} frames cannot be encoded: 4k or 4k + 1 frames make whole latents; "
                f"take {frames - frames % 4 + 1} or {frames + 4 - frames % 4} of them"
            )
        if any(n % ratio for n in size):
            raise ValueError(
                f"frames of {tuple(size)} pixels do not divide into latents of {ratio}x{ratio}; crop or pad them"
            )
        return None if tile is None else _if_larger(video, tile.pixel_axes(ratio))


def _tiled(code: Callable, x: jax.Array, axes: tuple[Axis, Axis] | None) -> jax.Array:
    if axes is None:
        return code(x)
    return join([[code(piece) for piece in row] for row in cut(x, axes)], axes)


def _if_larger(x: jax.Array, axes: tuple[Axis, Axis]) -> tuple[Axis, Axis] | None:
    larger = any(n > axis.size for n, axis in zip(x.shape[-2:], axes, strict=True))
    return axes if larger else None


def _check(x: jax.Array, name: str, field: str, channels: int) -> None:
    wanted = f"{name} must be a floating array [B, {field}={channels}, time, height, width], none of them 0"
    if x.ndim != 5:
        raise ValueError(f"{name} has shape {x.shape}; {wanted}: add or remove axes")
    if x.shape[1] != channels:
        raise ValueError(
            f"{name} of shape {x.shape} has {x.shape[1]} channels; {wanted}: channels come before time"
        )
    if 0 in x.shape:
        raise ValueError(f"{name} of shape {x.shape} is empty; {wanted}")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"{name} is {x.dtype}; {wanted}: scale pixels to [-1, 1] first")
