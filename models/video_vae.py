"""The base of the video autoencoders: checks of their arguments, and streaming a clip chunk by chunk.

Models take and return torch's [B, C, T, H, W]; inside, arrays are channels-last.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from .tiling import Tile


class VideoVAE(nnx.Module):
    """An autoencoder of videos, in `dtype`. Videos are [B, 3, F, H, W] in about [-1, 1].

    Its config has `latent_channels`, `video_channels`, `compression` (frames, rows and columns of pixels that a latent
    covers; the first may cover one frame) and `default_tile`.
    """

    FRAME_REMAINDERS: ClassVar[tuple[int, ...]] = (1,)
    """What may be left over where the frames of a clip are divided by those of a latent."""

    def __init__(self, config: Any, dtype: Any):
        self.config, self.dtype = config, dtype

    @property
    def default_tile(self) -> Tile:
        """What diffusers' `enable_tiling()` takes, for `tile=`."""
        return self.config.default_tile

    def decode(self, z: jax.Array, *, tile: Tile | None = None) -> jax.Array:
        """Latents, not normalised (see `denormalize`), to video.

        Args:
          z: [B, latent_channels, T, h, w], floating.
          tile: decode a clip larger than a tile in overlapping tiles and blend them; None does not cut. A tile is
            seen alone, so the result differs from that without tiles. Memory is a tile's and the video's.

        Returns:
          [B, 3, F, H, W] in the model's dtype; the class says what F, H and W are.

        Raises:
          ValueError: z has another rank or channel count, is empty or not floating, or tiles are no whole latents.
        """
        raise NotImplementedError

    def decode_chunks(self, z: jax.Array, *, tile: Tile | None = None) -> Iterator[jax.Array]:
        """The frames of `decode(z, tile=tile)` as they become ready, [B, 3, frames, H, W].

        For writing a long clip to disk: the whole video is never in memory. Not for use inside jit. Under a mesh all
        frames come at once, as from `decode`.

        Raises:
          ValueError: as `decode`, at the call and not when the first chunk is asked for.
        """
        raise NotImplementedError

    def encode(self, video: jax.Array, *, tile: Tile | None = None) -> tuple[jax.Array, jax.Array]:
        """Video to the mean and log variance of its latents, not normalised (see `normalize`).

        Args:
          video: [B, 3, F, H, W] in [-1, 1], floating, of whole latents.
          tile: as in `decode`.

        Returns:
          Mean and log variance [B, latent_channels, T, h, w] in the model's dtype, the latter clamped to [-30, 20].

        Raises:
          ValueError: the video has another rank, other channels or sizes, is not floating, or tiles are no whole
            latents.
        """
        raise NotImplementedError

    def normalize(self, z: jax.Array) -> jax.Array:
        """Latents of `encode` to those the transformer works on."""
        raise NotImplementedError

    def denormalize(self, z: jax.Array) -> jax.Array:
        """Latents of the transformer to those `decode` takes."""
        raise NotImplementedError

    def _check_latents(self, z: jax.Array) -> None:
        _check("z", z, self.config.latent_channels, "T, h, w")

    def _check_video(self, video: jax.Array) -> None:
        _check("video", video, self.config.video_channels, "frames, H, W")
        frames, *size = video.shape[2:]
        unit, ratio, _ = self.config.compression
        possible = {n % unit for n in self.FRAME_REMAINDERS}
        if frames % unit not in possible:
            below = next(n for n in range(frames, 0, -1) if n % unit in possible)
            above = next(n for n in range(frames, frames + unit) if n % unit in possible)
            allowed = " or ".join(f"{unit} k" + f" + {n}" * bool(n) for n in self.FRAME_REMAINDERS)
            raise ValueError(
                f"video has {frames} frames, and whole latents take {allowed}; cut it to {below} or "
                f"extend it to {above}"
            )
        if any(n % ratio for n in size):
            raise ValueError(
                f"video is {size[0]} x {size[1]} pixels, and both must be multiples of {ratio}; crop, pad or "
                "resize it"
            )


def _check(name: str, x: jax.Array, channels: int, axes: str) -> None:
    wanted = f"{name} of shape {x.shape} must be [B, {channels}, {axes}]"
    if x.ndim != 5:
        raise ValueError(f"{wanted}; add an axis of one for a single clip or picture")
    if x.shape[1] != channels:
        raise ValueError(
            f"{wanted}; it has {x.shape[1]} channels, transpose it if they are elsewhere"
        )
    if 0 in x.shape:
        raise ValueError(f"{wanted}; every axis must hold at least one entry")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"{name} is {x.dtype} and must be floating; scale pixels to [-1, 1] first")


def channels_last(x: jax.Array) -> jax.Array:
    """[B, C, T, H, W] to [B, T, H, W, C]."""
    return jnp.moveaxis(x, 1, -1)


def channels_second(x: jax.Array) -> jax.Array:
    """[B, T, H, W, C] to [B, C, T, H, W]."""
    return jnp.moveaxis(x, -1, 1)


def split_moments(moments: jax.Array) -> tuple[jax.Array, jax.Array]:
    """[B, 2 C, ...] to mean and log variance [B, C, ...], the latter clamped to [-30, 20] as in diffusers."""
    mean, log_variance = jnp.split(moments, 2, 1)
    return mean, jnp.clip(log_variance, -30.0, 20.0)


def run_layers(layers: Sequence[Any], x: jax.Array, cache: Sequence[Any] | None, *args: Any):
    """Calls `layer(x, cache, *args) -> (x, cache)` one after the other, each with its own part of the cache."""
    new = []
    for layer, part in zip(layers, cache or (None,) * len(layers), strict=True):
        x, part = layer(x, part, *args)
        new.append(part)
    return x, tuple(new)


def scan_clip(
    step: Callable[[jax.Array, Any], tuple[jax.Array, Any]],
    chunk: Callable[[int | jax.Array], jax.Array],
    count: int,
    *,
    remat: bool = False,
) -> jax.Array:
    """Results of `step(chunk(i), cache) -> (result, cache)` for i in range(count), joined along axis 2 (time).

    The first chunk is computed apart, the others in one scan whose carry is the cache. Results are written into one
    array that the scan carries too, so none of them exists twice.

    Args:
      step: gets the cache that the step before returned, None at first.
      chunk: gets the int 0 for the first chunk and a traced index for the others.
      count: chunks, at least 1.
      remat: keep only the caches for the backward pass and compute the rest of a step again.
    """
    if remat:
        step = jax.checkpoint(step)
    first, cache = step(chunk(0), None)
    if count == 1:
        return first
    rest, _ = jax.eval_shape(lambda i, cache: step(chunk(i), cache), jnp.int32(1), cache)
    start, each = first.shape[2], rest.shape[2]
    shape = (*first.shape[:2], start + (count - 1) * each, *first.shape[3:])
    out = jax.lax.dynamic_update_slice_in_dim(jnp.zeros(shape, first.dtype), first, 0, 2)

    def body(carry, i):
        cache, out = carry
        part, cache = step(chunk(i), cache)
        out = jax.lax.dynamic_update_slice_in_dim(out, part, start + (i - 1) * each, 2)
        return (cache, out), None

    (_, out), _ = jax.lax.scan(body, (cache, out), jnp.arange(1, count, dtype=jnp.int32))
    return out
