"""Positions of video tokens: sines and cosines that are added (2B), and rotations of q and k (5B, 1.5)."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .config import CogVideoXConfig


def sincos_embedding(config: CogVideoXConfig, shape: tuple[int, int, int]) -> jax.Array:
    """Vectors that are added to the video tokens.

    A quarter of the channels tells the frame, three eighths the COLUMN and three eighths the ROW, in this
    order; each part is its sines, then its cosines. Another latent grid than the one trained on gets the same
    steps between tokens, so a larger one reaches positions never seen: nothing is resampled, as in diffusers
    (CogVideoXPatchEmbed).

    Args:
      config: of the model; its interpolation scales divide rows, columns and frames.
      shape: video tokens (frames, height, width).

    Returns:
      float32 [tokens, dim] in raster order. Angles are float64; the axes are put together by XLA, so
      that a compiled model holds three small tables and not this one (135 MB for a clip of the 2B model).
    """
    dim = config.dim
    spatial, temporal = config.spatial_interpolation_scale, config.temporal_interpolation_scale
    tables = []
    for axis, scale, part in zip(
        (0, 2, 1), (temporal, spatial, spatial), _eighths(dim), strict=True
    ):
        position = np.arange(shape[axis], dtype=np.float32) / np.float32(scale)
        frequency = 10_000.0 ** -(np.arange(part // 2, dtype=np.float64) / (part / 2))
        angle = np.outer(position.astype(np.float64), frequency)
        table = np.concatenate([np.sin(angle), np.cos(angle)], -1).astype(np.float32)
        tables.append((axis, jnp.asarray(table)))
    return _raster(tables, shape, jnp)


def rotary_embedding(
    config: CogVideoXConfig, height: int, width: int, frames: int
) -> tuple[np.ndarray, np.ndarray]:
    """`image_rotary_emb` of a latent grid, as diffusers' CogVideoXPipeline makes it.

    CogVideoX 1.0 fits the latent grid into the one trained on, keeping its shape, centred: its tokens then have
    fractional positions, which start past 0 on the axis with room to spare. 1.5 counts 0, 1, 2, ... on every axis.

    Args:
      config: of the model.
      height, width, frames: of the latents, `hidden_states` [B, frames, C, height, width].

    Returns:
      Cosines and sines, float32 [video tokens, head_dim] in raster order, each entry twice in a row (the two
      channels of a pair). A quarter of the channels rotates with the frame, three eighths with the row and three
      eighths with the column. Angles are float32, as in diffusers.

    Raises:
      ValueError: the model has no rotary positions, or the latent grid does not divide into patches or is larger
        than a 1.5 model's sample size.
    """
    if not config.use_rotary_positional_embeddings:
        raise ValueError(
            "this config has use_rotary_positional_embeddings=False: its positions are added inside the "
            "model; call it without image_rotary_emb"
        )
    shape = config.token_shape(frames, height, width)
    trained = [n // config.patch_size for n in (config.sample_height, config.sample_width)]
    positions = [np.arange(n, dtype=np.float32) for n in shape]
    if config.patch_size_t is None:
        for axis, (start, stop) in enumerate(_fit(shape[1:], trained), 1):
            n = shape[axis]
            positions[axis] = np.linspace(start, stop * (n - 1) / n, n, dtype=np.float32)
    elif shape[1] > trained[0] or shape[2] > trained[1]:
        raise ValueError(
            f"latents of {height} x {width} are larger than the {config.sample_height} x "
            f"{config.sample_width} (sample_height x sample_width) that this model has positions for; "
            "make a smaller video"
        )
    cos, sin = [], []
    for axis, part in enumerate(_eighths(config.head_dim)):
        exponent = np.arange(0, part, 2, dtype=np.float32) / np.float32(part)
        frequency = np.float32(1) / np.float32(10_000) ** exponent
        angle = (positions[axis][:, None] * frequency).repeat(2, axis=1)
        cos.append((axis, np.cos(angle)))
        sin.append((axis, np.sin(angle)))
    return _raster(cos, shape, np), _raster(sin, shape, np)


def _eighths(dim: int) -> tuple[int, int, int]:
    """Channels of (frame, and each of row and column): 2, 3 and 3 eighths of `dim`."""
    return dim // 4, dim // 8 * 3, dim // 8 * 3


def _fit(canvas: Sequence[int], trained: Sequence[int]) -> list[tuple[int, int]]:
    """Start and end, for rows and columns, of the largest box of `canvas`' shape in the middle of `trained`."""
    (height, width), (trained_height, trained_width) = canvas, trained
    if height / width > trained_height / trained_width:
        box = trained_height, round(trained_height / height * width)
    else:
        box = round(trained_width / width * height), trained_width
    starts = [round((room - size) / 2) for room, size in zip(trained, box, strict=True)]
    return [(start, start + size) for start, size in zip(starts, box, strict=True)]


def _raster(tables: Sequence[tuple[int, Any]], shape: tuple[int, int, int], xp: Any) -> Any:
    """[tokens, channels] of tables [positions, channels] that each belong to one axis, side by side."""
    parts = []
    for axis, table in tables:
        along = [shape[i] if i == axis else 1 for i in range(3)]
        parts.append(xp.broadcast_to(table.reshape(*along, -1), (*shape, table.shape[1])))
    joined = xp.concatenate(parts, -1)
    return joined.reshape(-1, joined.shape[-1])
