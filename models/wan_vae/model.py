"""WanVAE: latents to video and back, with memory for one latent frame's activations."""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import nnx

from .config import WanVAEConfig
from .decoder import Decoder
from .encoder import Encoder
from .folding import patchify, unpatchify
from .layers import PointConv
from .scan import scan_clip
from .tiling import Tiling, blend_tiles, map_tiles
from .weights import KEYS


class WanVAE(nnx.Module):
    """Wan's causal video autoencoder; diffusers' AutoencoderKLWan of Wan 2.1 and 2.2.

    Latents are [B, z_dim, T, h, w] and videos [B, 3, 1 + 4 (T - 1), 8 h, 8 w] in [-1, 1] (16 h, 16 w for
    Wan 2.2's). The first latent frame holds one frame of video, every other one four. A clip goes through
    latent frame by latent frame in a scan: memory is the arguments, the result, and the activations and
    caches of one latent frame; compile time does not depend on the length.

    Args:
      dtype: of weights, activations and results. Norms divide in float32, attention sums in float32.

    Differences from diffusers: encode refuses frames and pixels that diffusers drops in silence, and
    `decode_chunks` is new.
    """

    CLASS_NAME = "AutoencoderKLWan"
    KEYS = KEYS
    config_class = WanVAEConfig

    def __init__(self, config: WanVAEConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
        self.config, self.dtype = config, dtype
        z = config.z_dim
        self.encoder = Encoder(config, dtype=dtype, rngs=rngs)
        self.quant_conv = PointConv(2 * z, 2 * z, dtype=dtype, rngs=rngs)
        self.post_quant_conv = PointConv(z, z, dtype=dtype, rngs=rngs)
        self.decoder = Decoder(config, dtype=dtype, rngs=rngs)

    def decode(self, z: jax.Array, *, tile: Tiling | None = None, remat: bool = False) -> jax.Array:
        """Latents, not normalised (see `denormalize`), to video.

        Args:
          z: [B, z_dim, T, h, w] of any float dtype.
          tile: decode a picture larger than a tile in overlapping tiles and blend them. What a pixel
            sees ends at its tile's border, so the result differs from that without tiles, as in diffusers.
          remat: in the backward pass compute each latent frame's activations again instead of keeping
            those of all frames.

        Returns:
          [B, 3, 1 + 4 (T - 1), 8 h, 8 w] in [-1, 1], in the dtype of the model.

        Raises:
          ValueError: z has another rank or channel count, no frames, or tiles are no whole latents.
        """
        self._check_latents(z)
        return _decode(self, z, tile=self._decode_tiling(z, tile), remat=remat)

    def decode_chunks(self, z: jax.Array, *, tile: Tiling | None = None) -> Iterator[jax.Array]:
        """The frames of `decode(z, tile=tile)` as they become ready: the first one, then four at a time.

        For writing a long clip to disk: the whole video is never in memory. With tiles, the caches of all
        tiles are, and the activations of one. Not for use inside jit.

        Yields:
          [B, 3, 1, 8 h, 8 w], then T - 1 times [B, 3, 4, 8 h, 8 w].

        Raises:
          ValueError: as `decode`, at the call and not when the first chunk is asked for.
        """
        self._check_latents(z)
        return self._decode_chunks(z, self._decode_tiling(z, tile))

    def encode(
        self, video: jax.Array, *, tile: Tiling | None = None, remat: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        """Video to the mean and log variance of its latents, not normalised (see `normalize`).

        Args:
          video: [B, 3, 1 + 4 k, H, W] in [-1, 1], H and W multiples of 8 (16 for Wan 2.2's).
          tile, remat: as in `decode`.

        Returns:
          Mean and log variance (clamped to [-30, 20]), each [B, z_dim, 1 + k, H / 8, W / 8].

        Raises:
          ValueError: another rank, channel count, frame count or size.
        """
        config = self.config
        _check_axes("video", video, config.out_channels // config.patch**2)
        frames, ratio = config.frames_per_latent, config.pixels_per_latent
        length, *size = video.shape[2:]
        if extra := (length - 1) % frames:
            raise ValueError(
                f"a video of {length} frames: the count must be 1 + {frames} k, such as "
                f"{length - extra} or {length - extra + frames}; leave frames out or repeat the last"
            )
        if any(n % ratio for n in size):
            raise ValueError(
                f"a video of {size[0]} x {size[1]} pixels: both must be multiples of {ratio}; crop or "
                "pad it"
            )
        if tile is not None:
            larger = tile.exceeded_by(*size)
            tile = tile.in_latents(ratio // config.patch)
            tile = tile if larger else None
        return _encode(self, video, tile=tile, remat=remat)

    def normalize(self, z: jax.Array) -> jax.Array:
        """Latents as `encode` returns them to what the transformers work on: (z - mean) / std per channel."""
        mean, inverse = self._statistics(z)
        return ((z.astype(jnp.float32) - mean) * inverse).astype(z.dtype)

    def denormalize(self, z: jax.Array) -> jax.Array:
        """Latents of the transformers to what `decode` takes: z * std + mean per channel, in float32."""
        mean, inverse = self._statistics(z)
        return (z.astype(jnp.float32) / inverse + mean).astype(z.dtype)

    def _statistics(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mean and 1 / std (the pipelines' rounding) for latents z of any rank, channels on axis 1."""
        _check_channels("latents", z, self.config.z_dim)
        shape = (1, -1, *(1,) * (z.ndim - 2))
        mean, std = (
            jnp.asarray(v, jnp.float32).reshape(shape)
            for v in (self.config.latents_mean, self.config.latents_std)
        )
        return mean, 1.0 / std

    def _check_latents(self, z: jax.Array) -> None:
        _check_axes("latents", z, self.config.z_dim)

    def _decode_tiling(self, z: jax.Array, tile: Tiling | None) -> Tiling | None:
        """Tiles in latents, None where one tile holds the picture."""
        if tile is None:
            return None
        tile = tile.in_latents(self.config.pixels_per_latent)
        return tile if tile.exceeded_by(*z.shape[-2:]) else None

    def _decode_chunks(self, z: jax.Array, tile: Tiling | None) -> Iterator[jax.Array]:
        if tile is None:
            cache = None
            for i in range(z.shape[2]):
                chunk, cache = _decode_step(self, z[:, :, i : i + 1], cache)
                yield chunk
            return
        boxes = tile.boxes(*z.shape[-2:])
        caches = [[None] * len(row) for row in boxes]
        for i in range(z.shape[2]):
            tiles = [[None] * len(row) for row in boxes]
            for row, column in ((r, c) for r, line in enumerate(boxes) for c in range(len(line))):
                top, left, height, width = boxes[row][column]
                part = z[:, :, i : i + 1, top : top + height, left : left + width]
                tiles[row][column], caches[row][column] = _decode_tile_step(
                    self, part, caches[row][column]
                )
            yield _finish_tiles(self, tiles, tile=tile)

    def _raw_decode(self, z: jax.Array, cache: tuple | None):
        """Latent frame [B, C, 1, h, w] to [B, out_channels, t, H, W] before patches, and the new cache."""
        z = self.post_quant_conv(_channels_last(z.astype(self.dtype)))
        video, cache = self.decoder(z, cache)
        return _channels_second(video), cache

    def _finish(self, video: jax.Array) -> jax.Array:
        """Patches to pixels, and values to [-1, 1]."""
        if self.config.patch > 1:
            video = _channels_second(unpatchify(_channels_last(video), self.config.patch))
        return jnp.clip(video, -1.0, 1.0)

    def _finish_tiles(self, tiles: list[list[jax.Array]], tile: Tiling) -> jax.Array:
        side = self.config.pixels_per_latent // self.config.patch
        overlap, stride = _overlap(tile, side)
        return self._finish(blend_tiles(tiles, overlap, stride))

    def _raw_encode(self, video: jax.Array, cache: tuple | None):
        """Frames of one latent [B, 3, t, H, W] to its moments [B, 2 z_dim, 1, h, w], and the new cache."""
        x = patchify(_channels_last(video.astype(self.dtype)), self.config.patch)
        x, cache = self.encoder(x, cache)
        return _channels_second(self.quant_conv(x)), cache


@functools.partial(jax.jit, static_argnames=("tile", "remat"))
def _decode(model: WanVAE, z: jax.Array, *, tile: Tiling | None, remat: bool) -> jax.Array:
    def clip(z, step):
        def chunk(i):
            return jax.lax.dynamic_slice_in_dim(z, i, 1, 2)

        return scan_clip(step, chunk, z.shape[2], remat=remat)

    if tile is None:
        return clip(z, functools.partial(_decode_step, model))
    boxes = tile.boxes(*z.shape[-2:])
    tiles = map_tiles(
        lambda top, left, height, width: clip(
            _crop(z, top, left, height, width), model._raw_decode
        ),
        boxes,
    )
    return model._finish_tiles(tiles, tile)


@functools.partial(jax.jit, static_argnames=("tile", "remat"))
def _encode(model: WanVAE, video: jax.Array, *, tile: Tiling | None, remat: bool):
    frames = model.config.frames_per_latent
    count = 1 + (video.shape[2] - 1) // frames
    ratio = model.config.pixels_per_latent

    def moments(top, left, height, width):
        def chunk(i):
            first, length = (0, 1) if isinstance(i, int) else (1 + frames * (i - 1), frames)
            part = jax.lax.dynamic_slice_in_dim(video, first, length, 2)
            return _crop(part, top * ratio, left * ratio, height * ratio, width * ratio)

        return scan_clip(model._raw_encode, chunk, count, remat=remat)

    height, width = (n // ratio for n in video.shape[-2:])
    if tile is None:
        out = moments(0, 0, height, width)
    else:
        out = blend_tiles(map_tiles(moments, tile.boxes(height, width)), *_overlap(tile, 1))
    mean, log_variance = jnp.split(out, 2, 1)
    return mean, jnp.clip(log_variance, -30.0, 20.0)


@functools.partial(jax.jit, donate_argnames="cache")
def _decode_step(model: WanVAE, z: jax.Array, cache: tuple | None):
    video, cache = model._raw_decode(z, cache)
    return model._finish(video), cache


@functools.partial(jax.jit, donate_argnames="cache")
def _decode_tile_step(model: WanVAE, z: jax.Array, cache: tuple | None):
    return model._raw_decode(z, cache)


@functools.partial(jax.jit, static_argnames="tile")
def _finish_tiles(model: WanVAE, tiles: list[list[jax.Array]], *, tile: Tiling) -> jax.Array:
    return model._finish_tiles(tiles, tile)


def _crop(x: jax.Array, top, left, height: int, width: int) -> jax.Array:
    """A window of [..., H, W]; the corner may be traced."""
    x = jax.lax.dynamic_slice_in_dim(x, top, height, x.ndim - 2)
    return jax.lax.dynamic_slice_in_dim(x, left, width, x.ndim - 1)


def _overlap(tile: Tiling, side: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Overlap and stride of tiles whose latents have become `side` pixels."""
    stride = (tile.stride[0] * side, tile.stride[1] * side)
    return (tile.size[0] * side - stride[0], tile.size[1] * side - stride[1]), stride


def _channels_last(x: jax.Array) -> jax.Array:
    return x.transpose(0, 2, 3, 4, 1)


def _channels_second(x: jax.Array) -> jax.Array:
    return x.transpose(0, 4, 1, 2, 3)


def _check_axes(what: str, x: jax.Array, channels: int) -> None:
    if x.ndim != 5 or x.size == 0:
        raise ValueError(
            f"{what} of shape {x.shape} must be [batch, {channels}, frames, height, width] and not "
            "empty; give a single picture an axis of one frame"
        )
    _check_channels(what, x, channels)


def _check_channels(what: str, x: jax.Array, channels: int) -> None:
    if x.ndim < 2 or x.shape[1] != channels:
        raise ValueError(
            f"{what} of shape {x.shape} must have {channels} channels on axis 1 (torch's order); "
            "transpose them"
        )
