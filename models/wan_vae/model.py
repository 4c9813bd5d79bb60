"""WanVAE: latents to video and back, with memory for one latent frame's activations."""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import nnx

from ..map_tiles import cut_out, map_plane
from ..tiling import Cut, Tile, boxes, crop, join, plane_cuts
from ..time_shards import spread_clip
from ..vae_devices import vae_devices
from ..video_vae import VideoVAE, channels_last, channels_second, scan_clip, split_moments
from .config import WanVAEConfig
from .decoder import Decoder
from .encoder import Encoder
from .folding import patchify, unpatchify
from .layers import PointConv
from .weights import KEYS

Cuts = tuple[Cut, Cut] | None


class WanVAE(VideoVAE):
    """Wan's causal video autoencoder, of Wan 2.1 and 2.2.

    Latents are [B, z_dim, T, h, w] and videos [B, 3, 1 + 4 (T - 1), 8 h, 8 w] in [-1, 1] (16 h, 16 w for
    Wan 2.2's). The first latent frame holds one frame of video, every other one four. A clip goes through
    latent frame by latent frame in a scan: memory is the arguments, the result, and the activations and
    caches of one latent frame; compile time does not depend on the length. Under a mesh `decode` spreads
    the frames over its devices, each with the activations of its share at once, or the tiles where it cuts.

    Source: diffusers' AutoencoderKLWan. Differs: `encode` refuses frames and pixels that diffusers drops in
    silence, and `decode_chunks` is new.

    Args:
      config: sizes.
      dtype: of weights, activations and results. Norms divide in float32, attention sums in float32.
      rngs: for initial weights.
    """

    CLASS_NAME = "AutoencoderKLWan"
    KEYS = KEYS
    config_class = WanVAEConfig

    def __init__(self, config: WanVAEConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
        super().__init__(config, dtype)
        z = config.z_dim
        self.encoder = Encoder(config, dtype=dtype, rngs=rngs)
        self.quant_conv = PointConv(2 * z, 2 * z, dtype=dtype, rngs=rngs)
        self.post_quant_conv = PointConv(z, z, dtype=dtype, rngs=rngs)
        self.decoder = Decoder(config, dtype=dtype, rngs=rngs)

    def decode(self, z: jax.Array, *, tile: Tile | None = None, remat: bool = False) -> jax.Array:
        """See `VideoVAE.decode`; [B, 3, 1 + 4 (T - 1), 8 h, 8 w], clipped to [-1, 1].

        `remat` computes each latent frame's activations again in the backward pass instead of keeping those of all
        frames.
        """
        self._check_latents(z)
        return _decode(self, z, cuts=self._decode_cuts(z, tile), remat=remat)

    def decode_chunks(self, z: jax.Array, *, tile: Tile | None = None) -> Iterator[jax.Array]:
        """See `VideoVAE.decode_chunks`: one frame, then four at a time.

        Without `tile` it does not tile; with one, the caches of all tiles are in memory, and the activations of one.
        """
        self._check_latents(z)
        if vae_devices() > 1:
            return iter([self.decode(z, tile=tile)])
        return self._decode_chunks(z, self._decode_cuts(z, tile))

    def encode(
        self, video: jax.Array, *, tile: Tile | None = None, remat: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        """See `VideoVAE.encode`, of 1 + 4 k frames, H and W multiples of 8 (16 for Wan 2.2's); `remat` as in `decode`.

        A model with patches (Wan 2.2's) takes tiles `patch_size` times as large, as in diffusers.
        """
        self._check_video(video)
        # The tile's numbers count patches, not pixels, but are compared with the picture's pixels: as in diffusers.
        cuts = plane_cuts(tile, video.shape[-2:], 1, self._patches_per_latent)
        return _encode(self, video, cuts=cuts, remat=remat)

    def normalize(self, z: jax.Array) -> jax.Array:
        """(z - mean) / std per channel, in float32."""
        mean, inverse = self._statistics(z)
        return ((z.astype(jnp.float32) - mean) * inverse).astype(z.dtype)

    def denormalize(self, z: jax.Array) -> jax.Array:
        """z * std + mean per channel, in float32."""
        mean, inverse = self._statistics(z)
        return (z.astype(jnp.float32) / inverse + mean).astype(z.dtype)

    def _statistics(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mean and 1 / std (the pipelines' rounding) that broadcast with z."""
        self._check_latents(z)
        mean, std = (
            jnp.asarray(v, jnp.float32).reshape(1, -1, 1, 1, 1)
            for v in (self.config.latents_mean, self.config.latents_std)
        )
        return mean, 1.0 / std

    @property
    def _patches_per_latent(self) -> int:
        return self.config.compression[1] // self.config.patch

    def _decode_cuts(self, z: jax.Array, tile: Tile | None) -> Cuts:
        """From latents to patches of pixels, where tiles are joined."""
        return plane_cuts(tile, z.shape[-2:], self.config.compression[1], self.config.patch)

    def _decode_chunks(self, z: jax.Array, cuts: Cuts) -> Iterator[jax.Array]:
        if cuts is None:
            cache = None
            for i in range(z.shape[2]):
                chunk, cache = _decode_step(self, z[:, :, i : i + 1], cache)
                yield chunk
            return
        rows = boxes(z.shape[-2:], cuts)
        caches = {box: None for row in rows for box in row}
        for i in range(z.shape[2]):
            frame = z[:, :, i : i + 1]
            tiles = {}
            for box in caches:
                tiles[box], caches[box] = _decode_tile_step(self, crop(frame, box), caches[box])
            yield _finish_tiles(self, [[tiles[box] for box in row] for row in rows], cuts=cuts)

    def _raw_decode(self, z: jax.Array, cache: tuple | None):
        """Latent frame [B, C, 1, h, w] to [B, out_channels, t, H, W] before patches, and the new cache."""
        z = self.post_quant_conv(channels_last(z.astype(self.dtype)))
        video, cache = self.decoder(z, cache)
        return channels_second(video), cache

    def _finish(self, video: jax.Array) -> jax.Array:
        """Patches to pixels, and values to [-1, 1]."""
        if self.config.patch > 1:
            video = channels_second(unpatchify(channels_last(video), self.config.patch))
        return jnp.clip(video, -1.0, 1.0)

    def _raw_encode(self, video: jax.Array, cache: tuple | None):
        """Frames of one latent [B, 3, t, H, W] to its moments [B, 2 z_dim, 1, h, w], and the new cache."""
        x = patchify(channels_last(video.astype(self.dtype)), self.config.patch)
        x, cache = self.encoder(x, cache)
        return channels_second(self.quant_conv(x)), cache


@functools.partial(jax.jit, static_argnames=("cuts", "remat"))
def _decode(model: WanVAE, z: jax.Array, *, cuts: Cuts, remat: bool) -> jax.Array:
    if cuts is None:
        if z.shape[2] > 3 and vae_devices() > 1:
            step = jax.checkpoint(_decode_step) if remat else _decode_step
            # Convolutions look two frames back.
            return spread_clip(step, model, z, first=1, unit=1, least=2)
        return _scan(_decode_step, model, z, remat)

    def tile(operands, corner, size):
        model, z = operands
        return _scan(WanVAE._raw_decode, model, cut_out(z, corner, size), remat)

    return model._finish(map_plane(tile, (model, z), z.shape[-2:], cuts))


def _scan(step, model: WanVAE, z: jax.Array, remat: bool) -> jax.Array:
    """The frames of a clip, one latent frame after the other."""

    def chunk(i):
        return jax.lax.dynamic_slice_in_dim(z, i, 1, 2)

    return scan_clip(functools.partial(step, model), chunk, z.shape[2], remat=remat)


@functools.partial(jax.jit, static_argnames=("cuts", "remat"))
def _encode(model: WanVAE, video: jax.Array, *, cuts: Cuts, remat: bool):
    (frames, *_), patch = model.config.compression, model.config.patch
    count = 1 + (video.shape[2] - 1) // frames

    def moments(operands, corner, size):
        model, video = operands

        def chunk(i):
            first, length = (0, 1) if isinstance(i, int) else (1 + frames * (i - 1), frames)
            part = jax.lax.dynamic_slice_in_dim(video, first, length, 2)
            return cut_out(part, corner * patch, tuple(n * patch for n in size))

        return scan_clip(model._raw_encode, chunk, count, remat=remat)

    operands, size = (model, video), tuple(n // patch for n in video.shape[-2:])
    if cuts is None:
        return split_moments(moments(operands, jnp.zeros(2, jnp.int32), size))
    return split_moments(map_plane(moments, operands, size, cuts))


@functools.partial(jax.jit, donate_argnames="cache")
def _decode_step(model: WanVAE, z: jax.Array, cache: tuple | None):
    video, cache = model._raw_decode(z, cache)
    return model._finish(video), cache


@functools.partial(jax.jit, donate_argnames="cache")
def _decode_tile_step(model: WanVAE, z: jax.Array, cache: tuple | None):
    return model._raw_decode(z, cache)


@functools.partial(jax.jit, static_argnames="cuts")
def _finish_tiles(model: WanVAE, tiles: list[list[jax.Array]], *, cuts: tuple[Cut, Cut]):
    return model._finish(join(tiles, cuts))
