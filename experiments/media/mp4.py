"""H.264 in MP4, by the ffmpeg that imageio-ffmpeg brings or finds."""

import contextlib
import subprocess
import tempfile
import threading
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from experiments.media.frames import check_frames, check_scale, enlarge, even
from experiments.new_file import written_whole

SLOWEST, FASTEST = Fraction(1, 100), 300  # frames per second; H.264 has no level for more than 300


class NoEncoderError(RuntimeError):
    """No ffmpeg on this machine, or it fails; the message says why and what helps."""


def frame_rate(fps: float | str | Fraction) -> Fraction:
    """Frames per second as a fraction: 24, 23.976, Fraction(24000, 1001), "24000/1001".

    A float is taken for the nearest fraction with a denominator up to 1001, so that 24000 / 1001 is what it means.

    Raises:
      ValueError: no number, or outside what H.264 and players know.
    """
    try:
        exact = Fraction(fps if isinstance(fps, str | int | Fraction) else float(fps))
    except (TypeError, ValueError, OverflowError, ZeroDivisionError):
        exact = Fraction(0)
    if not SLOWEST <= exact <= FASTEST:
        raise ValueError(
            f"fps={fps} must be a number from {float(SLOWEST)} to {FASTEST} (above it H.264 ends), "
            "such as 16, 23.976 or 24000/1001"
        )
    return exact.limit_denominator(1001)


def write_mp4(
    path: str | Path,
    video: np.ndarray,
    *,
    fps: float | str | Fraction,
    scale: int = 1,
    smooth: bool = True,
    scrub: bool = False,
) -> None:
    """Writes H.264, yuv420p, whole or not at all.

    A frame with an odd side gets its last row or column twice, because chroma has half the resolution. Colours are
    BT.709 from 720 rows or 1280 columns on and BT.601 (SMPTE 170M) below, limited range, converted and tagged so.

    Args:
      path: where to write, whatever its name; a file there is replaced.
      video: uint8 [F, Y, X] or [F, Y, X, 3].
      fps: frames per second; see `frame_rate`.
      scale: whole factor by which a frame is enlarged.
      smooth: enlarge with Lanczos; otherwise repeat pixels.
      scrub: every frame is a key frame, tuned for drawings: for clips of a second or two that a page steps through.
        Otherwise a key frame every two seconds.

    Raises:
      ValueError: no such clip, rate or scale.
      NoEncoderError: imageio-ffmpeg is missing, brings no program for this machine, or it fails.
      OSError: the folder cannot be written.
    """
    check_frames(video)
    check_scale(scale)
    rate = frame_rate(fps)
    count, height, width = video.shape[0], *(n * scale + n * scale % 2 for n in video.shape[1:3])
    colours = "bt709" if height >= 720 or width >= 1280 else "smpte170m"
    keys = ["-tune", "animation", "-g", "1", "-bf", "0", "-threads", "1"]
    with written_whole(path, replace=True) as part:
        # fmt: off
        arguments = [
            "-y", "-f", "rawvideo", "-pix_fmt", "rgb24", "-video_size", f"{width}x{height}",
            "-framerate", f"{rate}", "-i", "pipe:0", "-vf",
            f"scale=out_color_matrix={colours}:out_range=tv,format=yuv420p,setparams=range=tv:"
            f"colorspace={colours}:color_primaries={colours}:color_trc={colours}",
            "-c:v", "libx264", "-crf", "18", "-preset", "medium",
            *(keys if scrub else ["-g", f"{max(1, round(2 * rate))}"]),
            "-fflags", "+bitexact", "-flags:v", "+bitexact", "-movflags", "+faststart",
            "-f", "mp4", _url(part),
        ]
        # fmt: on
        frames = (_rgb(even(frame)) for frame in enlarge(video, scale, smooth=smooth))
        _run(arguments, frames, _limit(count * height * width))
        if not part.is_file():
            raise NoEncoderError("ffmpeg reported success and wrote nothing")


def check_mp4(path: Path, video: np.ndarray) -> None:
    """NoEncoderError unless as many frames as `video` has decode without an error."""
    arguments = ["-xerror", "-i", _url(path), "-map", "0:v:0", "-f", "framecrc", "pipe:1"]
    lines = _run(arguments, (), _limit(video.size)).splitlines()
    found = sum(not line.startswith(b"#") for line in lines)
    if found != len(video):
        raise NoEncoderError(f"ffmpeg wrote {found} of {len(video)} frames to {path}")


def _limit(pixels: int) -> float:
    """Seconds: a core encodes 5 million pixels a second or more; 25 times slower is not slow but stuck."""
    return 120 + pixels / 200_000


def check_encoder() -> None:
    """NoEncoderError unless two small frames become an MP4 here; takes a third of a second."""
    with tempfile.TemporaryDirectory() as folder:
        write_mp4(Path(folder) / "trial.mp4", np.zeros((2, 16, 16, 3), np.uint8), fps=10)


def _run(arguments: Sequence[str], frames: Iterable[np.ndarray], limit: float) -> bytes:
    """What ffmpeg writes to its output when it is fed `frames`, one at a time; killed after `limit` seconds."""
    command = [_ffmpeg(), "-nostdin", "-hide_banner", "-loglevel", "error", *arguments]
    with tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as words:
        try:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=answer, stderr=words)
        except OSError as error:
            raise NoEncoderError(f"ffmpeg did not start: {error}") from error
        timer = threading.Timer(limit, process.kill)
        timer.start()
        try:
            # Where ffmpeg ends early, its words say more than the broken pipe.
            with contextlib.suppress(BrokenPipeError), process.stdin as pipe:
                for frame in frames:
                    pipe.write(np.ascontiguousarray(frame))
            code = process.wait()
            late = not timer.is_alive()
        finally:
            timer.cancel()
            process.kill()
            process.wait()
        words.seek(0)
        said = " ".join(words.read().decode(errors="replace").split())
        if late:
            raise NoEncoderError(f"ffmpeg was stopped after {limit:.0f} s without an end")
        if code:
            raise NoEncoderError(f"ffmpeg ended with {code}: {said[-400:] or 'no message'}")
        answer.seek(0)
        return answer.read()


def _rgb(frame: np.ndarray) -> np.ndarray:
    return frame if frame.ndim == 3 else np.repeat(frame[..., None], 3, axis=2)


def _url(path: Path) -> str:
    """So that ffmpeg takes no colon for a protocol and no dash for an option."""
    return f"file:{path.absolute()}"


def _ffmpeg() -> str:
    """The program that imageio-ffmpeg brings or finds."""
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise NoEncoderError(
            "the package imageio-ffmpeg is not installed; pip install it"
        ) from error
    try:
        return imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise NoEncoderError(f"imageio-ffmpeg found no program: {error}") from error
