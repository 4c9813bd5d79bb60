"""Turns frames that were kept without loss into a video that players take.

    python -m experiments.media --frames cat.npz --out cat.mp4

The first file is one that `experiments.generate` wrote: asked for by its --out, or because there was no encoder. The
second is NAME.mp4, or a name without a suffix for a folder of PNG.
"""

import dataclasses
import os
from pathlib import Path

from experiments import command
from experiments.media.video import check_output, read_frames, write_video


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Flags.

    Attributes:
      frames: .npz with `frames` and `fps`.
      out: what to write; must not be there yet.
      fps: frames per second, such as 16, 23.976 or 24000/1001; those of the file by default.
    """

    frames: Path
    out: str | Path  # as text: a slash at its end, which a path loses, means a folder
    fps: str | None = None


def main(config: Config) -> None:
    """Runs the command."""
    video, fps = read_frames(config.frames)
    rate = fps if config.fps is None else config.fps
    check_output(config.out, rate)
    if os.path.lexists(config.out):
        raise FileExistsError(f"{config.out} exists and is not overwritten; choose another name")
    written = write_video(config.out, video, fps=rate)
    print(written.message or f"wrote {written.path}")


if __name__ == "__main__":
    command.run(main, Config, description=__doc__)
