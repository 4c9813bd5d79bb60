"""The autoencoder: whole clips, tiles, and clips in chunks of frames."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import nnx

from ..nn import Conv
from .config import HunyuanVideoVAEConfig
from .decoder import Decoder
from .encoder import Encoder
from .tiling import DEFAULT_TILE, Tile, in_chunks
from .weights import KEYS as _KEYS


class HunyuanVideoVAE(nnx.Module):
    """Autoencoder of HunyuanVideo (arXiv 2412.03603), diffusers' `AutoencoderKLHunyuanVideo`.

    A latent covers 8 x 8 pixels and 4 frames; the first one covers a single frame.

    Differs: a clip is cut into tiles where `tile` is given and only then (diffusers cuts clips of more
    than 16 frames in time unless it is told not to); tiles whose sizes are not multiples of a latent's, and
    clips that do not divide into latents, are refused instead of rounded.

    Args:
      config: sizes.
      dtype: of weights and of activations; norms and softmax compute in float32.
      rngs: for initial weights.
    """

    CLASS_NAME = "AutoencoderKLHunyuanVideo"
    KEYS = _KEYS
    config_class = HunyuanVideoVAEConfig

    def __init__(self, config: HunyuanVideoVAEConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
        self.config, self.dtype = config, dtype
        self.encoder = Encoder(config, dtype=dtype, rngs=rngs)
        self.decoder = Decoder(config, dtype=dtype, rngs=rngs)
        latent, moments = config.latent_channels, 2 * config.latent_channels
        self.quant_conv = Conv(moments, moments, (1, 1, 1), dtype=dtype, rngs=rngs)
        self.post_quant_conv = Conv(latent, latent, (1, 1, 1), dtype=dtype, rngs=rngs)

    def decode(self, z: jax.Array, *, tile: Tile | None = None) -> jax.Array:
        """The video of latents, in about -1..1; `denormalize` what a transformer made before.

        Args:
          z: [B, 16, T, h, w]; cast to the weights' dtype.
          tile: decode in tiles of this size and blend them; None decodes all at once. Memory is a tile's
            and the video's. Each shape of tile is compiled once: those inside share one, those at the far
            end of an axis have others.

        Returns:
          [B, 3, 1 + 4(T - 1), 8h, 8w] in the weights' dtype. With tiles it differs from the whole, since
          norms and attention see a tile.

        Raises:
          ValueError: z is not of that shape, or the tile's sizes are not multiples of a latent's.
        """
        if tile is None:
            self._check_latents(z)
            return self._decode_whole(z)
        return jnp.concatenate(list(self.decode_chunks(z, tile=tile)), 2)

    def decode_chunks(self, z: jax.Array, *, tile: Tile = DEFAULT_TILE) -> Iterator[jax.Array]:
        """`decode` in tiles, as an iterator over chunks [B, 3, frames, 8h, 8w] in order of time.

        A chunk is decoded when it is asked for, so a clip of any length can be written with the memory of
        a tile and a chunk; z may be a numpy array. With the default tile there are 13, 12, 12, ... frames.

        Raises:
          ValueError: as for `decode`, at the call.
        """
        self._check_latents(z)
        return in_chunks(
            lambda part: _decode_tile(self, part), z, tile.cuts(self._units, of_input=True)
        )

    def encode(self, video: jax.Array, *, tile: Tile | None = None) -> tuple[jax.Array, jax.Array]:
        """Mean and log variance of the latents of a video, clamped to -30..20 as in diffusers.

        Args:
          video: [B, 3, 1 + 4k, 8h, 8w] in -1..1; cast to the weights' dtype.
          tile: as for `decode`.

        Returns:
          Mean and log variance, [B, 16, 1 + k, h, w] each, in the weights' dtype; `normalize` the mean or
          a sample before a transformer takes it.

        Raises:
          ValueError: video is not of that shape, or the tile's sizes are not multiples of a latent's.
        """
        self._check_video(video)
        if tile is None:
            moments = self._encode_whole(video)
        else:
            cuts = tile.cuts(self._units, of_input=False)
            chunks = in_chunks(lambda part: _encode_tile(self, part), video, cuts)
            moments = jnp.concatenate(list(chunks), 2)
        mean, logvar = jnp.split(moments, 2, 1)
        return mean, jnp.clip(logvar, -30.0, 20.0)

    def normalize(self, z: jax.Array) -> jax.Array:
        """Latents as transformers take them, with a standard deviation near 1: z * scaling_factor."""
        return z * self.config.scaling_factor

    def denormalize(self, z: jax.Array) -> jax.Array:
        """Inverse of `normalize`: latents as `decode` takes them."""
        return z / self.config.scaling_factor

    @property
    def _units(self):
        """Frames, height and width of a latent."""
        side = self.config.spatial_compression_ratio
        return self.config.temporal_compression_ratio, side, side

    def _decode_whole(self, z):
        z = self.post_quant_conv(jnp.moveaxis(jnp.asarray(z), 1, -1))
        return jnp.moveaxis(self.decoder(z), -1, 1)

    def _encode_whole(self, video):
        moments = self.encoder(jnp.moveaxis(jnp.asarray(video), 1, -1))
        return jnp.moveaxis(self.quant_conv(moments), -1, 1)

    def _check_latents(self, z):
        self._check("z", z.shape, self.config.latent_channels, "T, h, w")

    def _check_video(self, video):
        self._check("video", video.shape, self.config.in_channels, "1 + 4k, 8h, 8w")
        unit, *sides = self._units
        frames, *size = video.shape[2:]
        if frames % unit != 1:
            low = 1 + (frames - 1) // unit * unit
            raise ValueError(
                f"video has {frames} frames, which latents cannot hold: it must be 1 + {unit} k "
                f"(1, {1 + unit}, {1 + 2 * unit}, ...); cut it to {low} or extend it to {low + unit}"
            )
        if any(n % side for n, side in zip(size, sides, strict=True)):
            raise ValueError(
                f"video is {size[0]} x {size[1]} pixels, which do not divide by {sides[0]}; crop, "
                "pad or resize it"
            )

    @staticmethod
    def _check(name, shape, channels, axes):
        wanted = f"[B, {channels}, {axes}]"
        if len(shape) != 5:
            hint = "; give a single one a batch axis" if len(shape) == 4 else ""
            raise ValueError(f"{name} has shape {shape}; it must be {wanted}{hint}")
        if shape[1] != channels:
            raise ValueError(
                f"{name} has {shape[1]} channels (shape {shape}); it must be {wanted}: "
                "channels come second"
            )
        if 0 in shape:
            raise ValueError(f"{name} has shape {shape}; every axis must hold at least one entry")


# Jitted here, once, so that every clip and every chunk finds the tile shapes that are compiled already.
@jax.jit
def _decode_tile(vae, z):
    return vae._decode_whole(z)


@jax.jit
def _encode_tile(vae, video):
    return vae._encode_whole(video)
