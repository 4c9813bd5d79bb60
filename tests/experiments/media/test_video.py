import sys
import tracemalloc

import imageio_ffmpeg
import ml_dtypes
import numpy as np
import pytest
from PIL import Image

from experiments import command, media
from experiments.media import __main__ as convert

from ..clips import decode, moving_square

# What shells, clocks and people make; every one is legal on Linux, macOS and most network file systems.
NAMES = [
    "2026-11-30T10:15:00+00:00.mp4", "-x.mp4", "%05d %d 100%.mp4", "katze ä 猫.mp4", "two\nlines.mp4",
    "file:a.mp4", "pipe:1.mp4", "a'b\"c;$(d)|e*?[f].mp4", ".hidden.mp4", "UPPER.MP4", "new/folder/a.mp4",
    "12:00/-a.mp4", f"{'n' * 200}.mp4",
]  # fmt: skip


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder: names are relative, as users give them."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def no_ffmpeg(monkeypatch):
    def missing():
        raise RuntimeError("No ffmpeg exe could be found")

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", missing)


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", NAMES)
def test_every_name_that_the_file_system_takes_is_written(here, name):
    written = media.write_video(name, moving_square(), fps=10)
    assert written == media.Written(written.path, None)
    assert files(here) == [name]
    assert len(decode(here / name, 16, 20)[0]) == 6


def test_names_are_checked_and_nothing_is_left(here):
    for name in NAMES:
        media.video.check_new(name)
    media.check_output("new/folder/2026-11-30T10:15:00.mp4", "24000/1001")
    for name in ("a.npz", "new/a.npz", "frames", "frames.v2/", "new/frames"):
        media.check_output(name, 23.976)
    assert not list(here.iterdir())


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("a.mov", "must be NAME.mp4, NAME.npz"),
        ("a.gif", "must be NAME.mp4, NAME.npz"),
        (".mp4", "must be NAME.mp4, NAME.npz"),
        ("v1.0", "must be NAME.mp4, NAME.npz"),
        ("", "names no file"),
        (".", "names no file"),
        ("..", "names no file"),
        ("a\0.mp4", "zero byte"),
        ("taken/a.mp4", "taken is a file"),
        ("taken/deep/a.npz", "taken is a file"),
        ("gone/a.npz", "link to nowhere"),
        (f"{'n' * 256}.npz", "cannot be written"),
        (f"{'n' * 240}.npz", "cannot be written"),  # no room for the names beside it
        (f"{'n' * 256}/a.npz", "cannot be written"),
    ],
)
def test_names_that_cannot_work_are_refused(here, name, word):
    (here / "taken").touch()
    (here / "gone").symlink_to("nowhere")
    with pytest.raises((ValueError, OSError), match=word):
        media.check_output(name, 10)
    assert files(here) == ["taken"]


def test_a_rate_and_an_encoder_that_cannot_work_are_refused(here, monkeypatch):
    for name in ("a.mp4", "a.npz", "a"):
        with pytest.raises(ValueError, match="fps=500 must be"):
            media.check_output(name, 500)
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: "false")
    with pytest.raises(ValueError, match=r"a\.mp4 cannot be encoded .*ended with 1.* a\.npz or a"):
        media.check_output("a.mp4", 10)
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ValueError, match="imageio-ffmpeg is not installed; pip install it"):
        media.check_output("a.mp4", 10)
    media.check_output("a.npz", 10)
    media.check_output("a", 10)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 1, 3), (3, 5, 7), (2, 4, 6, 3)])
def test_frames_without_loss(here, shape):
    video = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    assert media.write_video("a.npz", video, fps="24000/1001").message is None
    frames, fps = media.read_frames("a.npz")
    np.testing.assert_array_equal(frames, video)
    assert fps == 24000 / 1001
    assert media.write_video("a/b", video, fps=10).message is None
    names = sorted((here / "a/b").iterdir())
    assert [path.name for path in names] == [f"{i:05d}.png" for i in range(len(video))]
    for path, frame in zip(names, video, strict=True):
        with Image.open(path) as image:
            np.testing.assert_array_equal(np.asarray(image), frame)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_floats_are_scaled_and_a_channel_of_grey_is_dropped(here, dtype, channels):
    video = np.linspace(-1.5, 1.5, 24).reshape(1, 4, 6, *[1 for _ in channels]).astype(dtype)
    video = np.broadcast_to(video, (2, 4, 6, *channels))
    media.write_video("a.npz", video, fps=10)
    frames, _ = media.read_frames("a.npz")
    assert frames.shape == (2, 4, 6, *[c for c in channels if c == 3])
    assert frames.min() == 0
    assert frames.max() == 255


@pytest.mark.parametrize("name", ["a.mp4", "a.npz", "a"])
def test_what_is_no_video_is_refused_and_nothing_is_written(here, name):
    good = np.zeros((2, 4, 4, 3), np.float32)
    bad = good.copy()
    bad[1, 0, 0] = np.nan, np.inf, 0
    with pytest.raises(ValueError, match="2 of 96 values that are not finite; look for NaN in"):
        media.write_video(name, bad, fps=10)
    with pytest.raises(ValueError, match="int64; give uint8"):
        media.write_video(name, np.zeros((2, 4, 4), np.int64), fps=10)
    for shape in [(1, 2, 4, 4, 3), (2, 4, 4, 4), (0, 4, 4, 3), (4, 4), (2, 0, 4, 3)]:
        with pytest.raises(ValueError, match="drop the batch axis"):
            media.write_video(name, np.zeros(shape, np.uint8), fps=10)
    with pytest.raises(ValueError, match="fps=0"):
        media.write_video(name, good, fps=0)
    with pytest.raises(ValueError, match="must be NAME"):
        media.write_video("a.mov", good, fps=10)
    assert not list(here.iterdir())


@pytest.mark.usefixtures("no_ffmpeg")
def test_without_an_encoder_the_frames_are_kept_and_become_a_video_later(here, monkeypatch, capsys):
    video = moving_square()
    (here / "it's.npz").write_bytes(b"another's")
    written = media.write_video("it's.mp4", video, fps=12.5)
    assert written.path.name == "it's-2.npz"
    assert "No ffmpeg exe could be found" in written.message
    assert "its 6 frames" in written.message
    assert (here / "it's.npz").read_bytes() == b"another's"
    np.testing.assert_array_equal(media.read_frames(written.path)[0], video)
    monkeypatch.undo()
    monkeypatch.chdir(here)
    command.run(
        convert.main, convert.Config, arguments=[f"--frames={written.path}", "--out=it's.mp4"]
    )
    assert capsys.readouterr().out == "wrote it's.mp4\n"
    frames, text = decode(here / "it's.mp4", 16, 20)
    assert len(frames) == 6
    assert "12.50 fps" in text
    with pytest.raises(SystemExit, match=r"it's\.mp4 exists"):
        command.run(
            convert.main, convert.Config, arguments=[f"--frames={written.path}", "--out=it's.mp4"]
        )


def test_an_mp4_that_does_not_read_back_is_not_left(here, monkeypatch):
    """A program that says all is well and writes nothing that plays."""
    real, program = imageio_ffmpeg.get_ffmpeg_exe(), here / "liar"
    program.write_text(
        "#!/bin/sh\nfor last; do :; done\n"
        'case "$last" in file:*) cat >/dev/null; echo x >"${last#file:}";; *) exec '
        f"'{real}' \"$@\";; esac\n"
    )
    program.chmod(0o700)
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(program))
    written = media.write_video("a.mp4", moving_square(), fps=10)
    assert written.path.name == "a.npz"
    assert "frames" in written.message
    assert files(here) == ["a.npz", "liar"]


@pytest.mark.parametrize(("name", "side"), [("a.mp4", 128), ("a.npz", 512), ("a", 128)])
def test_frames_are_not_held_twice(here, name, side):
    """NumPy writes 16 MiB at a time."""
    video = np.zeros((64, side, side, 3), np.uint8)
    media.write_video(name, video[:1], fps=10)  # what a first call loads is not counted
    tracemalloc.start()
    media.write_video(name, video, fps=10)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < video.nbytes / 2


@pytest.mark.parametrize("name", ["a.mp4", "a.npz", "a"])
def test_what_has_come_to_exist_stays(here, name):
    video = moving_square()
    (here / name).write_bytes(b"another's")
    written = media.write_video(name, video, fps=10)
    assert written.path.name == name.replace("a", "a-2")
    assert f"{name} has come to exist" in written.message
    assert (here / name).read_bytes() == b"another's"


@pytest.mark.parametrize("name", ["a.mp4", "a.npz", "a"])
def test_where_nothing_can_be_written_the_latents_are_named(here, name):
    with pytest.raises(OSError, match=r"Not a directory|File exists|keep the latents"):
        media.write_video(f"{__file__}/{name}", moving_square(), fps=10)


def test_other_files_are_no_frames(here):
    with pytest.raises(FileNotFoundError, match=r"no file .*; give an \.npz that"):
        media.read_frames("a.npz")
    (here / "a.npz").write_bytes(b"PK\3\4 and no more")
    with pytest.raises(ValueError, match=r"a\.npz holds no frames"):
        media.read_frames("a.npz")
    np.savez("b.npz", latents=np.zeros(3))
    with pytest.raises(ValueError, match=r"b\.npz holds no frames"):
        media.read_frames("b.npz")
