"""Clips as pictures: an animated GIF, or a sheet of frames."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from experiments.media.frames import check_frames, check_scale, enlarge
from experiments.media.mp4 import frame_rate


def write_gif(
    path: Path, video: np.ndarray, *, fps: float, scale: int = 3, smooth: bool = True
) -> None:
    """Writes an endless animated GIF; arguments as for `write_mp4`.

    GIF counts time in 1/100 s and browsers play nothing faster than 50 frames a second.
    """
    check_frames(video)
    check_scale(scale)
    rate = frame_rate(fps)
    grey = video.ndim == 3
    frames = [Image.fromarray(frame) for frame in enlarge(video, scale, smooth=smooth)]
    if grey:  # 64 levels of grey halve the file; nobody sees the difference
        frames = [frame.quantize(64, dither=Image.Dither.NONE) for frame in frames]
    else:
        frames = [frame.quantize(128, dither=Image.Dither.NONE) for frame in frames]
    milliseconds = max(20, 10 * round(100 / rate))
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
    check_scale(scale)
    font = ImageFont.load_default(size=14)
    text = 22 if any(videos) else 0
    rows = []
    for video in videos.values():
        check_frames(video)
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
