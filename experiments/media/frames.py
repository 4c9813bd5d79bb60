"""Arrays of frames: what a clip is, its bytes, its enlargement, and how two clips differ."""

from collections.abc import Iterator

import numpy as np
from PIL import Image

NEGATIVE = np.array([86, 180, 233], np.float32)  # darker than the reference: sky blue
POSITIVE = np.array([240, 150, 30], np.float32)  # brighter: orange, apart from blue to every eye


def to_uint8(clip: np.ndarray) -> np.ndarray:
    """[-1, 1] to 0 ... 255 (uint8 stays as it is, uncopied), and [F, Y, X, 1] to [F, Y, X].

    Args:
      clip: uint8, or any float type; [F, Y, X], [F, Y, X, 1] or [F, Y, X, 3].

    Raises:
      ValueError: another type, or values that are not finite.
    """
    clip = np.asarray(clip)
    if clip.ndim == 4 and clip.shape[3] == 1:
        clip = clip[..., 0]
    if clip.dtype == np.uint8:
        return clip
    if clip.dtype.kind != "f" and clip.dtype.name != "bfloat16":
        raise ValueError(
            f"clip is {clip.dtype}; give uint8 (0 to 255) or floats in [-1, 1], so that its range is known"
        )
    pixels = np.empty(clip.shape, np.uint8)
    bad = 0
    for frame, out in zip(
        clip, pixels, strict=True
    ):  # one by one, for a float copy takes four times the room
        frame = np.asarray(frame, np.float32)
        bad += frame.size - int(np.isfinite(frame).sum())
        if not bad:
            out[...] = np.round((np.clip(frame, -1, 1) + 1) * 127.5)
    if bad:
        raise ValueError(
            f"clip has {bad} of {clip.size} values that are not finite; look for NaN in the latents: "
            "decode in float32, and check weights, LoRA and embeddings"
        )
    return pixels


def check_frames(video: np.ndarray) -> None:
    """ValueError unless `video` is uint8 [F, Y, X] or [F, Y, X, 3] with pixels."""
    if video.dtype != np.uint8:
        raise ValueError(f"{video.dtype=} must be uint8; scale [-1, 1] to [0, 255] and round first")
    if video.ndim not in (3, 4) or (video.ndim == 4 and video.shape[3] != 3) or not video.size:
        raise ValueError(
            f"{video.shape=} must be [F, Y, X] or [F, Y, X, 3] with pixels; drop the batch axis, "
            "and the channel axis of a grey clip"
        )


def check_scale(scale: int) -> None:
    """ValueError unless `scale` is a whole factor from 1."""
    if scale < 1 or scale != int(scale):
        raise ValueError(f"{scale=} must be a whole number, at least 1")


def enlarge(video: np.ndarray, scale: int, *, smooth: bool = True) -> Iterator[np.ndarray]:
    """Frames uint8 [scale Y, scale X(, 3)], one by one, by Lanczos or by repeating pixels."""
    method = Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST
    size = (video.shape[2] * scale, video.shape[1] * scale)
    for frame in video:
        yield frame if scale == 1 else np.asarray(Image.fromarray(frame).resize(size, method))


def even(frame: np.ndarray) -> np.ndarray:
    """Repeats the last row or column of a frame [Y, X(, 3)] with an odd side."""
    margin = ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0))[: frame.ndim]
    return np.pad(frame, margin, mode="edge")


def difference(video: np.ndarray, reference: np.ndarray, *, gain: float = 3.0) -> np.ndarray:
    """`gain * (video - reference)` in colour on black: orange where brighter, blue where darker.

    Args:
      video, reference: uint8 [F, Y, X] or [F, Y, X, 3] (averaged over colours), same shape.
      gain: at which share of the range the colour is full: 3 means a third.

    Returns:
      uint8 [F, Y, X, 3].
    """
    if video.shape != reference.shape:
        raise ValueError(
            f"{video.shape=} differs from {reference.shape=}; compare clips of one size and length"
        )
    signed = video.astype(np.float32) - reference.astype(np.float32)
    if signed.ndim == 4:
        signed = signed.mean(-1)
    strength = np.clip(gain * signed / 255, -1, 1)[..., None]
    colour = np.maximum(strength, 0) * POSITIVE + np.maximum(-strength, 0) * NEGATIVE
    return colour.round().astype(np.uint8)
