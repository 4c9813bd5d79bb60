from fractions import Fraction

import imageio_ffmpeg
import numpy as np
import pytest

from experiments import media
from experiments.media.mp4 import check_mp4

from ..clips import decode, decode_planes, moving_square

FIELDS = np.array(
    [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0], [180, 90, 40]], np.uint8
)
# Luma's shares of red, green and blue: ITU-R BT.709-6 and BT.601-7.
SHARES = {"bt709": (0.2126, 0.7152, 0.0722), "smpte170m": (0.299, 0.587, 0.114)}


def luma(colours, matrix):
    """Limited range: black is 16, white is 235."""
    return 16 + 219 * (colours / 255) @ np.array(SHARES[matrix])


@pytest.mark.parametrize(
    ("height", "width", "matrix"),
    [
        (480, 832, "smpte170m"),
        (704, 1278, "smpte170m"),
        (720, 96, "bt709"),
        (96, 1280, "bt709"),
        (719, 96, "bt709"),  # 720 rows in the file
        (16, 16, "smpte170m"),
    ],
)
def test_colours_are_converted_by_the_matrix_that_the_file_names(tmp_path, height, width, matrix):
    """Fields of one colour: players that obey the tags show what was given."""
    columns = np.arange(width) * len(FIELDS) // width
    video = np.broadcast_to(FIELDS[columns], (1, height, width, 3))
    media.write_mp4(tmp_path / "a.mp4", video, fps=24)
    even = height + height % 2, width + width % 2
    y, _, _ = decode_planes(tmp_path / "a.mp4", *even)
    frames, text = decode(tmp_path / "a.mp4", *even)
    (tags,) = [line for line in text.splitlines() if "Video: h264" in line]
    assert f"yuv420p(tv, {matrix}, progressive)" in tags  # one word: matrix, primaries and transfer
    middles = [int(np.flatnonzero(columns == i).mean()) for i in range(len(FIELDS))]
    row = even[0] // 2
    assert np.abs(y[0, row, middles] - luma(FIELDS, matrix)).max() < 3
    if width > 100:  # in narrow fields the neighbour's chroma shows
        assert np.abs(frames[0, row, middles].astype(int) - FIELDS).max() <= 6


def test_the_two_matrices_differ_by_more_than_what_the_test_above_allows():
    assert np.abs(luma(FIELDS, "bt709") - luma(FIELDS, "smpte170m")).max() > 20


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 1, 3), (3, 5, 7), (1, 2, 3, 3), (2, 1, 64, 3)])
@pytest.mark.parametrize("scrub", [False, True])
def test_odd_sides_single_pixels_grey_and_one_frame(tmp_path, shape, scrub):
    video = np.full(shape, 130, np.uint8)
    media.write_mp4(tmp_path / "a.mp4", video, fps=8, scrub=scrub)
    frames, text = decode(tmp_path / "a.mp4", shape[1] + shape[1] % 2, shape[2] + shape[2] % 2)
    assert len(frames) == shape[0]
    assert "8 fps" in text
    assert np.abs(frames.astype(int) - 130).max() < 5


def test_a_moving_clip_of_several_groups_keeps_every_frame_in_order(tmp_path):
    video = np.zeros((70, 16, 72, 3), np.uint8)
    for i in range(70):
        video[i, :, : i + 2] = 255
    media.write_mp4(tmp_path / "a.mp4", video, fps=16)  # a key frame every 32
    frames, _ = decode(tmp_path / "a.mp4", 16, 72)
    edge = (frames[:, 8, :, 1] > 127).sum(1)
    assert np.abs(edge - np.arange(2, 72)).max() <= 1


@pytest.mark.parametrize(
    ("fps", "text"),
    [
        (24000 / 1001, "23.98 fps"),
        ("24000/1001", "23.98 fps"),
        (Fraction(30000, 1001), "29.97 fps"),
        ("12.5", "12.50 fps"),
        (np.float32(8), "8 fps"),
        (0.5, "0.50 fps"),
        (0.01, "0.01 fps"),
        (300, "300 fps"),
    ],
)
def test_rates_reach_the_file(tmp_path, fps, text):
    media.write_mp4(tmp_path / "a.mp4", moving_square(frames=2), fps=fps)
    frames, said = decode(tmp_path / "a.mp4", 16, 20)
    assert len(frames) == 2
    assert text in said


def test_a_float_is_the_fraction_that_it_stands_for():
    assert media.frame_rate(24000 / 1001) == Fraction(24000, 1001)
    assert media.frame_rate(60000 / 1001) == Fraction(60000, 1001)
    assert media.frame_rate(1 / 3) == Fraction(1, 3)
    assert media.frame_rate(23.976) == Fraction(2997, 125)
    assert media.frame_rate(16) == 16


@pytest.mark.parametrize(
    "fps", [0, -1, float("nan"), float("inf"), 500, 300.5, 1e-9, "x", "1/0", "", None, [16]]
)
def test_other_rates_are_refused(fps):
    with pytest.raises(ValueError, match=r"fps=.* must be a number from 0\.01 to 300"):
        media.frame_rate(fps)


def test_the_same_clip_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        media.write_mp4(tmp_path / f"{name}.mp4", moving_square(), fps=10, scrub=True)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_damage_is_seen_and_so_are_missing_frames(tmp_path):
    video = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), np.uint8)
    media.write_mp4(tmp_path / "a.mp4", video, fps=10)
    check_mp4(tmp_path / "a.mp4", video)
    with pytest.raises(media.NoEncoderError, match="wrote 6 of 7 frames"):
        check_mp4(tmp_path / "a.mp4", np.concatenate([video, video[:1]]))
    whole = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(media.NoEncoderError, match="ffmpeg"):
        check_mp4(tmp_path / "a.mp4", video)


@pytest.mark.parametrize("program", ["false", "true", "no-such-program-anywhere"])
def test_an_ffmpeg_that_fails_is_told_apart_from_a_wrong_clip(tmp_path, monkeypatch, program):
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: program)
    big = np.zeros((4, 256, 256, 3), np.uint8)  # more than a pipe holds
    with pytest.raises(media.NoEncoderError, match="ffmpeg"):
        media.write_mp4(tmp_path / "a.mp4", big, fps=10)
    assert not list(tmp_path.iterdir())


def test_an_ffmpeg_that_hangs_is_stopped(tmp_path, monkeypatch):
    program = tmp_path / "slow"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o700)
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(program))
    monkeypatch.setattr("experiments.media.mp4._limit", lambda pixels: 0.2)
    with pytest.raises(media.NoEncoderError, match="stopped after 0 s"):
        media.write_mp4(tmp_path / "a.mp4", np.zeros((4, 256, 256, 3), np.uint8), fps=10)
    assert [path.name for path in tmp_path.iterdir()] == ["slow"]


def test_an_older_file_is_replaced_only_by_a_whole_one(tmp_path, monkeypatch):
    (tmp_path / "a.mp4").write_bytes(b"old")
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: "false")
    with pytest.raises(media.NoEncoderError):
        media.write_mp4(tmp_path / "a.mp4", moving_square(), fps=10)
    assert (tmp_path / "a.mp4").read_bytes() == b"old"
    monkeypatch.undo()
    media.write_mp4(tmp_path / "a.mp4", moving_square(), fps=10)
    assert len(decode(tmp_path / "a.mp4", 16, 20)[0]) == 6
