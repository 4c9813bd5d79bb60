"""CogVideoXVAE: chunks of latents to chunks of video and back."""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import nnx

from ..map_tiles import cut_out, map_plane
from ..tiling import Cut, Tile, boxes, crop, in_tiles, join, plane_cuts
from ..vae_devices import vae_devices
from ..video_vae import VideoVAE, split_moments
from .chunks import Coder, all_chunks, each_chunk
from .config import CogVideoXVAEConfig
from .decoder import Decoder
from .encoder import Encoder
from .weights import KEYS

# Group norms take their statistics over a chunk, so these lengths are part of the function.
LATENTS_PER_CHUNK, FRAMES_PER_CHUNK = 2, 8


class CogVideoXVAE(VideoVAE):
    """CogVideoX's causal video autoencoder (arXiv 2408.06072).

    Latents are [B, 16, T, h, w] and videos [B, 3, F, 8 h, 8 w] in about [-1, 1]. A clip goes through chunk by chunk,
    8 frames or 2 latents, and what is left over goes to the first chunk. T latents give 4T frames if T is even and
    4T - 3 if it is odd; F frames give F/4 latents, or (F + 3)/4 if F is 4k + 1. Both ways give a clip its own length
    if F is 8k or 8k + 1. Under a mesh the chunks are divided among its devices, or the tiles if there are tiles.
    A device holds the activations of its share at once.

    Source: diffusers' AutoencoderKLCogVideoX. Differs: other numbers of frames, and heights and widths that are no
    multiples of 8, are refused, where the original shares frames unevenly and drops pixels.

    Args:
      config: sizes.
      dtype: of weights, activations and results. Norms compute in float32.
      rngs: for initial weights.
    """

    CLASS_NAME = "AutoencoderKLCogVideoX"
    KEYS = KEYS
    config_class = CogVideoXVAEConfig
    FRAME_REMAINDERS = (0, 1)

    def __init__(self, config: CogVideoXVAEConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
        super().__init__(config, dtype)
        self.encoder = Encoder(config, dtype=dtype, rngs=rngs)
        self.decoder = Decoder(config, dtype=dtype, rngs=rngs)

    def decode(self, z: jax.Array, *, tile: Tile | None = None) -> jax.Array:
        """See `VideoVAE.decode`: pictures are cut, clips are not; not clipped."""
        self._check_latents(z)
        return _in_tiles(self.decoder, z, LATENTS_PER_CHUNK, self._decode_cuts(z, tile))

    def decode_chunks(self, z: jax.Array, *, tile: Tile | None = None) -> Iterator[jax.Array]:
        """See `VideoVAE.decode_chunks`: 8 frames at a time, the first time also 1 or 9.

        Without `tile` it does not tile; with one, the caches of all tiles are in memory, and the activations of one.
        """
        self._check_latents(z)
        cuts = self._decode_cuts(z, tile)
        if vae_devices() > 1:
            return iter([self.decode(z, tile=tile)])
        if cuts is None:
            return each_chunk(self.decoder, z, LATENTS_PER_CHUNK)
        return self._joined_chunks(z, cuts)

    def encode(self, video: jax.Array, *, tile: Tile | None = None) -> tuple[jax.Array, jax.Array]:
        """See `VideoVAE.encode`; F is 4k or 4k + 1, H and W multiples of 8."""
        self._check_video(video)
        cuts = plane_cuts(tile, video.shape[-2:], 1, self.config.compression[1])
        return split_moments(_in_tiles(self.encoder, video, FRAMES_PER_CHUNK, cuts))

    def normalize(self, z: jax.Array) -> jax.Array:
        """scaling_factor * z.

        With `invert_scale_latents` divided by it, as diffusers' image-to-video pipeline does for version 1.5:
        then it is `denormalize` itself, not its inverse.
        """
        if self.config.invert_scale_latents:
            return self.denormalize(z)
        return self.config.scaling_factor * z

    def denormalize(self, z: jax.Array) -> jax.Array:
        """1 / scaling_factor * z, inverted or not."""
        return 1 / self.config.scaling_factor * z

    def _decode_cuts(self, z: jax.Array, tile: Tile | None) -> tuple[Cut, Cut] | None:
        return plane_cuts(tile, z.shape[-2:], self.config.compression[1], 1)

    def _joined_chunks(self, z: jax.Array, cuts: tuple[Cut, Cut]) -> Iterator[jax.Array]:
        streams = [
            [each_chunk(self.decoder, crop(z, box), LATENTS_PER_CHUNK) for box in row]
            for row in boxes(z.shape[-2:], cuts)
        ]
        for chunks in zip(*(stream for row in streams for stream in row), strict=True):
            parts = iter(chunks)
            yield join([[next(parts) for _ in row] for row in streams], cuts)


def _in_tiles(coder: Coder, x: jax.Array, size: int, cuts: tuple[Cut, Cut] | None) -> jax.Array:
    if cuts is not None and vae_devices() > 1:
        return _dealt_tiles(coder, x, size=size, cuts=cuts)
    return in_tiles(lambda part: all_chunks(coder, part, size), x, cuts)


@functools.partial(jax.jit, static_argnames=("size", "cuts"))
def _dealt_tiles(coder: Coder, x: jax.Array, *, size: int, cuts: tuple[Cut, Cut]) -> jax.Array:
    def tile(operands, corner, shape):
        coder, x = operands
        return all_chunks(coder, cut_out(x, corner, shape), size)

    return map_plane(tile, (coder, x), x.shape[-2:], cuts)
