"""Clips as files that a browser plays: H.264 in MP4, animated GIF, and sheets of frames as PNG."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

FRAMES_PER_SECOND = 10.0
NEGATIVE = np.array([86, 180, 233], np.float32)  # darker than the reference: sky blue
POSITIVE = np.array([240, 150, 30], np.float32)  # brighter: orange, apart from blue to every eye


class NoEncoderError(RuntimeError):
    """No ffmpeg on this machine; the message says why."""


def write_clip(
    folder: Path,
    name: str,
    clip: np.ndarray,
    reference: np.ndarray | None = None,
    *,
    fps: float = FRAMES_PER_SECOND,
    scale: int = 4,
) -> dict[str, str | None]:
    """Writes a clip's files: `name.mp4`, `.gif`, `_frames.png`, and `_difference.mp4` or `.gif`.

    Without ffmpeg there is no MP4, and the reason is printed.

    Args:
      folder: an existing folder.
      name: start of every file name.
      clip: uint8, or float in [-1, 1]; [F, Y, X], [F, Y, X, 1] (grey) or [F, Y, X, 3] (RGB).
      reference: the clip to subtract, of the same shape; None or `clip` itself for no difference.
      fps: frames per second.
      scale: whole factor by which the MP4's frames are enlarged.

    Returns:
      File names under "video" (None without ffmpeg), "gif", "sheet" and "difference" (or None).
    """
    video = to_uint8(clip)
    files: dict[str, str | None] = {"video": None, "gif": f"{name}.gif", "difference": None}
    write_gif(folder / f"{name}.gif", video, fps=fps, scale=max(1, scale - 1))
    contact_sheet(folder / f"{name}_frames.png", {"": video}, scale=2)
    files["sheet"] = f"{name}_frames.png"
    files["video"] = _encode(folder, name, video, fps, scale)
    if reference is not None and reference is not clip:
        changed = difference(video, to_uint8(reference))
        files["difference"] = _encode(folder, f"{name}_difference", changed, fps, scale)
        if files["difference"] is None:
            files["difference"] = f"{name}_difference.gif"
            write_gif(folder / f"{name}_difference.gif", changed, fps=fps, scale=max(1, scale - 1))
    return files


def _encode(folder: Path, name: str, video: np.ndarray, fps: float, scale: int) -> str | None:
    """The name of the MP4 written, or None after printing why there is none."""
    try:
        write_mp4(folder / f"{name}.mp4", video, fps=fps, scale=scale)
    except NoEncoderError as error:
        print(f"no {name}.mp4; the page shows a GIF instead: {error}")
        return None
    return f"{name}.mp4"


def to_uint8(clip: np.ndarray) -> np.ndarray:
    """[-1, 1] to 0 ... 255 (uint8 stays), and [F, Y, X, 1] to [F, Y, X]."""
    clip = np.asarray(clip)
    if clip.ndim == 4 and clip.shape[3] == 1:
        clip = clip[..., 0]
    if clip.dtype == np.uint8:
        return clip
    if not np.isfinite(clip).all():
        bad = clip.size - np.isfinite(clip).sum()
        raise ValueError(f"clip has {bad} values that are not finite; look for NaN in the sampler")
    return np.round((np.clip(clip.astype(np.float32), -1, 1) + 1) * 127.5).astype(np.uint8)


def write_mp4(
    path: Path, video: np.ndarray, *, fps: float, scale: int = 4, smooth: bool = True
) -> None:
    """Writes H.264 (yuv420p, every frame a key frame so that scrubbing is exact).

    Args:
      path: where to write.
      video: uint8 [F, Y, X] or [F, Y, X, 3].
      fps: frames per second.
      scale: whole factor by which a frame is enlarged.
      smooth: enlarge with Lanczos; otherwise repeat pixels.

    Raises:
      NoEncoderError: imageio-ffmpeg is missing, brings no program for this machine, or it fails.
    """
    _check(video, fps, scale)
    # Chroma is stored at half the resolution, so both sides must be even.
    frames = np.stack([_even(frame) for frame in enlarge(video, scale, smooth=smooth)])
    count, height, width = frames.shape[:3]
    # fmt: off
    command = [
        _ffmpeg(), "-nostdin", "-loglevel", "error", "-y",
        "-f", "rawvideo", "-pix_fmt", "gray" if frames.ndim == 3 else "rgb24",
        "-video_size", f"{width}x{height}", "-framerate", f"{fps:g}", "-i", "pipe:0",
        "-frames:v", str(count), "-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "18",
        "-preset", "medium", "-tune", "animation", "-g", "1", "-bf", "0", "-threads", "1",
        "-fflags", "+bitexact", "-flags:v", "+bitexact", "-movflags", "+faststart", str(path),
    ]
    # fmt: on
    try:
        done = subprocess.run(command, input=frames.tobytes(), capture_output=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoEncoderError(f"ffmpeg did not run: {error}") from error
    if done.returncode:
        path.unlink(missing_ok=True)
        message = done.stderr.decode(errors="replace").strip() or "no message"
        raise NoEncoderError(f"ffmpeg ended with {done.returncode}: {message[-400:]}")


def write_gif(
    path: Path, video: np.ndarray, *, fps: float, scale: int = 3, smooth: bool = True
) -> None:
    """Writes an endless animated GIF; arguments as for `write_mp4`.

    GIF counts time in 1/100 s and browsers play nothing faster than 50 frames a second.
    """
    _check(video, fps, scale)
    grey = video.ndim == 3
    frames = [Image.fromarray(frame) for frame in enlarge(video, scale, smooth=smooth)]
    if grey:  # 64 levels of grey halve the file; nobody sees the difference
        frames = [frame.quantize(64, dither=Image.Dither.NONE) for frame in frames]
    else:
        frames = [frame.quantize(128, dither=Image.Dither.NONE) for frame in frames]
    milliseconds = max(20, 10 * round(100 / fps))
    frames[0].save(
        path, "GIF", save_all=True, append_images=frames[1:], duration=milliseconds, loop=0
    )


def contact_sheet(
    path: Path, videos: Mapping[str, np.ndarray], *, frames: int = 8, scale: int = 2, gap: int = 4
) -> None:
    """Writes a PNG with one row of evenly spaced frames per clip.

    Args:
      path: where to write.
      videos: label -> uint8 [F, Y, X] or [F, Y, X, 3]; an empty label draws no text.
      frames: frames per row, the first and the last of the clip among them.
      scale: whole factor by which a frame is enlarged.
      gap: pixels between frames.
    """
    if not videos:
        raise ValueError("videos={} has no clip to draw; give at least one label and its frames")
    font = ImageFont.load_default(size=14)
    text = 22 if any(videos) else 0
    rows = []
    for video in videos.values():
        _check(video, 1.0, scale)
        chosen = np.linspace(0, len(video) - 1, min(frames, len(video))).round().astype(int)
        rows.append([Image.fromarray(frame) for frame in enlarge(video[chosen], scale)])
    heights = [row[0].height + text + gap for row in rows]
    width = max(sum(image.width + gap for image in row) for row in rows) + gap
    sheet = Image.new("RGB", (width, sum(heights) + gap), (24, 26, 30))
    draw = ImageDraw.Draw(sheet)
    top = gap
    for label, row, height in zip(videos, rows, heights, strict=True):
        if label:
            draw.text((gap + 2, top + 1), label, fill=(235, 235, 235), font=font)
        left = gap
        for image in row:
            sheet.paste(image, (left, top + text))
            left += image.width + gap
        top += height
    sheet.save(path, "PNG")


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


def enlarge(video: np.ndarray, scale: int, *, smooth: bool = True) -> Sequence[np.ndarray]:
    """Frames uint8 [scale Y, scale X(, 3)], by Lanczos or by repeating pixels."""
    method = Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST
    size = (video.shape[2] * scale, video.shape[1] * scale)
    return [np.asarray(Image.fromarray(frame).resize(size, method)) for frame in video]


def _even(frame: np.ndarray) -> np.ndarray:
    """Repeats the last row or column of a frame with an odd side."""
    margin = ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0))[: frame.ndim]
    return np.pad(frame, margin, mode="edge")


def _ffmpeg() -> str:
    """The program that imageio-ffmpeg brings or finds."""
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise NoEncoderError("the package imageio-ffmpeg is not installed") from error
    try:
        return imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise NoEncoderError(f"imageio-ffmpeg found no program: {error}") from error


def _check(video: np.ndarray, fps: float, scale: int) -> None:
    if video.dtype != np.uint8:
        raise ValueError(f"{video.dtype=} must be uint8; scale [-1, 1] to [0, 255] and round first")
    if video.ndim not in (3, 4) or (video.ndim == 4 and video.shape[3] != 3) or not video.size:
        raise ValueError(
            f"{video.shape=} must be [F, Y, X] or [F, Y, X, 3] with pixels; drop the batch axis, "
            "and the channel axis of a grey clip"
        )
    if not 0 < fps <= 240 or scale < 1:
        raise ValueError(f"{fps=} must lie in (0, 240] and {scale=} be at least 1")
