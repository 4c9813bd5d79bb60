"""One clip of a page, in all the files that the page shows."""

from pathlib import Path

import numpy as np

from experiments.media.clip_pictures import contact_sheet, write_gif
from experiments.media.frames import difference, to_uint8
from experiments.media.mp4 import NoEncoderError, write_mp4

FRAMES_PER_SECOND = 10.0


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
        write_mp4(folder / f"{name}.mp4", video, fps=fps, scale=scale, scrub=True)
    except NoEncoderError as error:
        print(f"no {name}.mp4; the page shows a GIF instead: {error}")
        return None
    return f"{name}.mp4"
