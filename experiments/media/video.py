"""Writes a video in the form that a user asks for: an MP4, an .npz of frames, or a folder of PNG."""

import dataclasses
import os
import shlex
import zipfile
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.media.frames import check_frames, to_uint8
from experiments.media.mp4 import NoEncoderError, check_encoder, check_mp4, frame_rate, write_mp4
from experiments.new_file import check_new, free_name, written_whole


@dataclasses.dataclass(frozen=True)
class Written:
    """Where a video lies, and what to tell the user when it is not where or what was asked for.

    Attributes:
      path: of the file or folder.
      message: None when all went well.
    """

    path: Path
    message: str | None = None


def check_output(path: str | Path, fps: float | str | Fraction) -> None:
    """Refuses what `write_video` could not write, in half a second; makes nothing.

    Whether `path` exists is the caller's question.

    Args:
      path: NAME.mp4, NAME.npz, or a folder: a name without a suffix, or a str that ends in a slash.
      fps: frames per second; see `frame_rate`.

    Raises:
      ValueError: another suffix, an illegal name, a rate outside the range, no encoder for an MP4.
      OSError: nothing can be written there.
    """
    kind = _kind(path)
    frame_rate(fps)
    check_new(path)
    if kind == ".mp4":
        try:
            check_encoder()
        except NoEncoderError as problem:
            raise ValueError(
                f"{path} cannot be encoded ({problem}); mend that, or ask for {Path(path).stem}.npz or a "
                "folder of PNG, which need no encoder"
            ) from problem


def write_video(path: str | Path, video: np.ndarray, *, fps: float | str | Fraction) -> Written:
    """Writes `video` as the name says, whole or not at all, and reads it back.

    Nothing is overwritten: where `path` has come to exist, the video lies beside it, at NAME-2. Where encoding or a
    folder of PNG fails, the frames lie in NAME.npz. The message says both.

    Args:
      path: as for `check_output`. An .npz holds `frames` (the video, uint8) and `fps` (float64); a folder holds
        00000.png, 00001.png, ...
      video: uint8, or float in [-1, 1]; [F, Y, X], [F, Y, X, 1] (grey) or [F, Y, X, 3] (RGB).
      fps: frames per second.

    Raises:
      ValueError: no such clip or rate, values that are not finite; nothing is written.
      OSError: not even the .npz could be written; keep what the video was made of.
    """
    kind = _kind(path)
    rate = frame_rate(fps)
    video = to_uint8(video)
    check_frames(video)
    wanted, path = Path(path), free_name(path)
    moved = "" if path == wanted else f"{wanted} has come to exist, so the video is {path}"
    try:
        if kind == ".mp4":
            with written_whole(path) as part:
                write_mp4(part, video, fps=rate)
                check_mp4(part, video)
        elif kind == ".npz":
            _write_npz(path, video, rate)
        else:
            _write_folder(path, video)
    except (NoEncoderError, OSError) as problem:
        if kind == ".npz":
            raise
        spare = free_name(wanted.with_name(f"{wanted.stem if kind else wanted.name}.npz"))
        try:
            _write_npz(spare, video, rate)
        except OSError as worse:
            raise OSError(
                f"neither {wanted} ({problem}) nor {spare} ({worse}) could be written; keep the latents, "
                "make room or choose another folder, and decode again"
            ) from worse
        return Written(
            spare,
            f"{wanted} could not be written ({problem}), so its {len(video)} frames lie without loss in {spare}; to "
            f"make the video of them: python -m experiments.media --frames={shlex.quote(str(spare))} "
            f"--out={shlex.quote(str(wanted))}",
        )
    return Written(path, moved or None)


def read_frames(path: str | Path) -> tuple[np.ndarray, float]:
    """(`frames`, `fps`) of an .npz that `write_video` wrote.

    Raises:
      FileNotFoundError: there is none.
      ValueError: the file is another one, or damaged.
    """
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            frames, fps = arrays["frames"], float(arrays["fps"])
        check_frames(frames)
    except FileNotFoundError as problem:
        raise FileNotFoundError(
            f"no file {path}; give an .npz that experiments.generate wrote"
        ) from problem
    except Exception as problem:  # zipfile, zlib and numpy each have their own for damage
        raise ValueError(
            f"{path} holds no frames of write_video ({problem}); give an .npz that experiments.generate wrote"
        ) from problem
    return frames, fps


def _kind(path: str | Path) -> str:
    """The suffix, in small letters; none for a folder."""
    if os.fspath(path).endswith(("/", os.sep)):
        return ""
    name = Path(path).name
    kind = os.path.splitext(name)[1].lower()
    if kind not in ("", ".mp4", ".npz") or name.lower() in (".mp4", ".npz"):
        raise ValueError(
            f"{path} must be NAME.mp4, NAME.npz (frames without loss), or a name without a suffix, "
            "for a folder of PNG"
        )
    return kind


def _write_npz(path: Path, video: np.ndarray, rate: Fraction) -> None:
    with written_whole(path) as part:
        with open(part, "wb") as file:
            np.savez(file, frames=video, fps=np.float64(rate))
        with zipfile.ZipFile(part) as archive:
            damaged = archive.testzip()  # reads all of it, a little at a time
        if damaged is not None:
            raise OSError(f"{path} does not read back: {damaged} is damaged; try another disk")


def _write_folder(path: Path, video: np.ndarray) -> None:
    with written_whole(path) as part:
        part.mkdir()
        digits = max(5, len(str(len(video) - 1)))  # so that names sort like frames
        for i, frame in enumerate(video):
            name = part / f"{i:0{digits}d}.png"
            Image.fromarray(frame).save(name, "PNG")
            with Image.open(name) as image:
                if not np.array_equal(np.asarray(image), frame):
                    raise OSError(f"{path}/{name.name} does not read back; try another disk")
