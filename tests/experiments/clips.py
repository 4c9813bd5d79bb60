"""MP4 files read back."""

import subprocess

import imageio_ffmpeg
import numpy as np


def decode(path, height, width):
    """(frames uint8 [F, Y, X, 3], what ffmpeg says about the file)."""
    # imageio_ffmpeg.read_frames leaves its pipes to the garbage collector, which warns.
    program = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-hide_banner", "-i", str(path)]
    command = [*program, "-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1"]
    done = subprocess.run(command, capture_output=True, check=True)
    frames = np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width, 3)
    return frames, done.stderr.decode()
