"""HunyuanVideoVAE: whole clips, tiles, and clips in chunks of frames."""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import nnx

from ..layers import Conv
from ..tiling import Tile
from ..vae_devices import vae_devices
from ..video_vae import VideoVAE, channels_last, channels_second, split_moments
from .chunks import Cuts, all_chunks, in_chunks
from .config import HunyuanVideoVAEConfig
from .decoder import Decoder
from .encoder import Encoder
from .weights import KEYS


class HunyuanVideoVAE(VideoVAE):
    """HunyuanVideo's causal video autoencoder (arXiv 2412.03603).

    Latents are [B, 16, T, h, w] and videos [B, 3, 1 + 4 (T - 1), 8 h, 8 w] in about [-1, 1]. The first latent
    frame holds one frame of video, every other one four.

    Source: diffusers' AutoencoderKLHunyuanVideo. Differs: a clip is cut into tiles where `tile` is given and
    only then (diffusers cuts clips of more than 16 frames in time unless it is told not to); tiles whose sizes
    are not multiples of a latent's, and clips that do not divide into latents, are refused instead of rounded.

    Args:
      config: sizes.
      dtype: of weights, activations and results. Norms and softmax compute in float32.
      rngs: for initial weights.
    """

    CLASS_NAME = "AutoencoderKLHunyuanVideo"
    KEYS = KEYS
    config_class = HunyuanVideoVAEConfig

    def __init__(self, config: HunyuanVideoVAEConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
        super().__init__(config, dtype)
        self.encoder = Encoder(config, dtype=dtype, rngs=rngs)
        self.decoder = Decoder(config, dtype=dtype, rngs=rngs)
        latent, moments = config.latent_channels, 2 * config.latent_channels
        self.quant_conv = Conv(moments, moments, (1, 1, 1), dtype=dtype, rngs=rngs)
        self.post_quant_conv = Conv(latent, latent, (1, 1, 1), dtype=dtype, rngs=rngs)

    def decode(self, z: jax.Array, *, tile: Tile | None = None) -> jax.Array:
        """See `VideoVAE.decode`; not clipped.

        Each shape of tile is compiled once: those inside share one, those at the far end of an axis have others. Under
        a mesh its devices share the tiles of each shape.
        """
        self._check_latents(z)
        if tile is None:
            return self._decode_whole(z)
        if vae_devices() > 1:
            return _decode_tiles(self, jnp.asarray(z), cuts=self._cuts(tile, of_input=True))
        return jnp.concatenate(list(self.decode_chunks(z, tile=tile)), 2)

    def decode_chunks(self, z: jax.Array, *, tile: Tile | None = None) -> Iterator[jax.Array]:
        """See `VideoVAE.decode_chunks`; with `default_tile` 13 frames, then 12 at a time.

        In memory are a tile's activations, a chunk and its overlap with the next. Without `tile` it takes
        `default_tile`, for this model has no caches: it is cut in time or not at all. z may be a numpy array.
        """
        self._check_latents(z)
        tile = tile or self.default_tile
        if vae_devices() > 1:
            return iter([self.decode(z, tile=tile)])
        cuts = self._cuts(tile, of_input=True)
        return in_chunks(lambda part: _decode_tile(self, part), z, cuts)

    def encode(self, video: jax.Array, *, tile: Tile | None = None) -> tuple[jax.Array, jax.Array]:
        """See `VideoVAE.encode`, of 1 + 4 k frames, H and W multiples of 8; under a mesh one tile after the other."""
        self._check_video(video)
        if tile is None:
            return split_moments(self._encode_whole(video))
        cuts = self._cuts(tile, of_input=False)
        chunks = in_chunks(lambda part: _encode_tile(self, part), video, cuts)
        return split_moments(jnp.concatenate(list(chunks), 2))

    def normalize(self, z: jax.Array) -> jax.Array:
        """z * scaling_factor."""
        return z * self.config.scaling_factor

    def denormalize(self, z: jax.Array) -> jax.Array:
        """z / scaling_factor."""
        return z / self.config.scaling_factor

    def _cuts(self, tile: Tile, *, of_input: bool) -> Cuts:
        """Of frames, height and width; the latents go in (decoding) or come out (encoding)."""
        frames, side, _ = self.config.compression
        units = (frames, 1), (side, 1)
        in_time, in_plane = units if of_input else (unit[::-1] for unit in units)
        return tile.cut("frames", *in_time), *tile.plane(*in_plane)

    def _decode_whole(self, z):
        z = self.post_quant_conv(channels_last(jnp.asarray(z)))
        return channels_second(self.decoder(z))

    def _encode_whole(self, video):
        moments = self.encoder(channels_last(jnp.asarray(video)))
        return channels_second(self.quant_conv(moments))


# Jitted here, once, so that every clip and every chunk finds the tile shapes that are compiled already.
@jax.jit
def _decode_tile(model, z):
    return model._decode_whole(z)


@functools.partial(jax.jit, static_argnames="cuts")
def _decode_tiles(model, z, *, cuts: Cuts):
    return all_chunks(HunyuanVideoVAE._decode_whole, model, z, cuts)


@jax.jit
def _encode_tile(model, video):
    return model._encode_whole(video)
