"""A clip to generate, in frames and pixels, and its decoded frames as bytes."""

import dataclasses
from collections.abc import Iterable, Iterator

import jax
import numpy as np

_AT_A_TIME = 16
"""Frames of a chunk that are turned into bytes at once: they pass through float32."""


@dataclasses.dataclass(frozen=True)
class Clip:
    """What to generate, in frames and pixels."""

    frames: int
    height: int
    width: int

    def __str__(self):
        return f"{self.frames} frames of {self.height} x {self.width}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Defaults:
    """The defaults that people use."""

    clip: Clip
    steps: int
    guidance: float
    fps: int


def check_clip(clip: Clip, model: str, units: tuple[int, int, int]) -> None:
    """ValueError, with the nearest clips that are possible, unless a model can make `clip`.

    Args:
      clip: that is asked for.
      model: its name.
      units: frames are one and a multiple of the first, rows and columns multiples of the others.
    """
    step, *sides = units
    if clip.frames < 1 or (clip.frames - 1) % step:
        below = max(1, (clip.frames - 1) // step * step + 1)
        raise ValueError(
            f"frames={clip.frames}: {model} makes 1 + {step} k frames; ask for {below} or {below + step}"
        )
    for name, unit in zip(("height", "width"), sides, strict=True):
        pixels = getattr(clip, name)
        if pixels < 1 or pixels % unit:
            below = max(unit, pixels // unit * unit)
            raise ValueError(
                f"{name}={pixels} must be a multiple of {unit} for {model} (pixels of a token); ask for {below} or "
                f"{below + unit}"
            )


def as_bytes(chunks: Iterable[jax.Array | np.ndarray], frames: int) -> Iterator[np.ndarray]:
    """Decoded chunks [1, 3, t, height, width] as uint8 [n, height, width, 3], a few frames at a time.

    Args:
      chunks: from -1 to 1.
      frames: of the clip; what a VAE makes beyond them is dropped.

    Raises:
      FloatingPointError: a value is not finite.
    """
    for chunk in chunks:
        chunk = chunk[0, :, :frames]
        frames -= chunk.shape[1]
        for start in range(0, chunk.shape[1], _AT_A_TIME):
            part = chunk[:, start : start + _AT_A_TIME]
            video = np.asarray(part.transpose(1, 2, 3, 0), np.float32)
            if not np.isfinite(video).all():
                raise FloatingPointError(
                    "the decoded video holds NaN or infinity; try --dtype float32, and look at the latents"
                )
            yield np.round((np.clip(video, -1, 1) + 1) * 127.5).astype(np.uint8)
