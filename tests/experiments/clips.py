"""Clips to write, and MP4 files read back."""

import subprocess

import imageio_ffmpeg
import numpy as np


def decode(path, height, width):
    """(frames uint8 [F, Y, X, 3], what ffmpeg says about the file)."""
    done = _decode(path, "rgb24")
    frames = np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width, 3)
    return frames, done.stderr.decode()


def decode_planes(path, height, width):
    """Y [F, Y, X], U and V [F, Y / 2, X / 2] as they are stored."""
    data = np.frombuffer(_decode(path, "yuv420p").stdout, np.uint8)
    y, u, v = np.split(
        data.reshape(-1, height * width * 3 // 2), [height * width, height * width * 5 // 4], 1
    )
    half = (-1, height // 2, width // 2)
    return y.reshape(-1, height, width).astype(int), u.reshape(half), v.reshape(half)


def moving_square(frames=6, height=16, width=20):
    """A bright square that moves to the right on a dark canvas, uint8 [F, Y, X]."""
    video = np.zeros((frames, height, width), np.uint8)
    for i in range(frames):
        video[i, 4:12, 2 * i : 2 * i + 8] = 200
    return video


def _decode(path, pixels):
    # imageio_ffmpeg.read_frames leaves its pipes to the garbage collector, which warns.
    program = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-hide_banner", "-i", f"file:{path}"]
    command = [*program, "-f", "rawvideo", "-pix_fmt", pixels, "pipe:1"]
    return subprocess.run(command, capture_output=True, check=True)
