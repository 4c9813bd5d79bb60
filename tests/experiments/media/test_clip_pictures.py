import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from experiments import media

from ..clips import decode, moving_square


@pytest.fixture
def no_ffmpeg(monkeypatch):
    def missing():
        raise RuntimeError("No ffmpeg exe could be found")

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", missing)


def test_an_mp4_holds_the_enlarged_frames_in_a_format_that_browsers_play(tmp_path):
    video = moving_square()
    media.write_mp4(tmp_path / "a.mp4", video, fps=10, scale=4)
    frames, text = decode(tmp_path / "a.mp4", 64, 80)
    assert len(frames) == 6
    for word in ("Video: h264", "yuv420p", "80x64", "10 fps"):
        assert word in text
    expected = np.stack([*media.enlarge(video, 4)]).astype(float)
    assert np.abs(frames.mean(-1) - expected).mean() < 4


def test_a_gif_loops_and_keeps_the_time(tmp_path):
    media.write_gif(tmp_path / "a.gif", moving_square(), fps=10, scale=2)
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == 6
        assert gif.size == (40, 32)
        assert gif.info["duration"] == 100
        assert gif.info["loop"] == 0


def test_a_clip_of_the_model_becomes_all_files_that_the_page_names(tmp_path):
    clip = moving_square()[..., None] / np.float32(127.5) - 1
    dense = np.roll(clip, 1, axis=2)
    files = media.write_clip(tmp_path, "sta", clip, dense)
    assert files == {
        "video": "sta.mp4",
        "gif": "sta.gif",
        "difference": "sta_difference.mp4",
        "sheet": "sta_frames.png",
    }
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(files.values())
    assert media.write_clip(tmp_path, "dense", dense, dense)["difference"] is None


@pytest.mark.usefixtures("no_ffmpeg")
def test_without_ffmpeg_there_are_gifs_and_the_reason_is_printed(tmp_path, capsys):
    clip = moving_square()
    files = media.write_clip(tmp_path, "sta", clip, np.roll(clip, 1, axis=2))
    assert files["video"] is None
    assert files["difference"] == "sta_difference.gif"
    assert not list(tmp_path.glob("*.mp4"))
    assert (tmp_path / "sta.gif").exists()
    assert (tmp_path / "sta_difference.gif").exists()
    assert "No ffmpeg exe could be found" in capsys.readouterr().out


def test_a_sheet_has_a_row_per_clip_and_a_frame_per_column(tmp_path):
    video = moving_square()
    media.contact_sheet(tmp_path / "a.png", {"one": video, "two": video}, frames=3, scale=2, gap=4)
    with Image.open(tmp_path / "a.png") as sheet:
        assert sheet.size == (3 * (40 + 4) + 4, 2 * (32 + 22 + 4) + 4)
    media.contact_sheet(tmp_path / "b.png", {"": video}, frames=99, scale=1, gap=0)
    with Image.open(tmp_path / "b.png") as sheet:
        assert sheet.size == (6 * 20, 16)
        np.testing.assert_array_equal(np.asarray(sheet)[:, :20, 0], video[0])


def test_the_difference_shows_its_sign_by_colour():
    reference = np.full((1, 2, 2), 100, np.uint8)
    video = reference.copy()
    video[0, 0, 0], video[0, 1, 1] = 180, 20
    colours = media.difference(video, reference, gain=1.0)
    assert colours.shape == (1, 2, 2, 3)
    assert colours[0, 0, 0, 0] > colours[0, 0, 0, 2]  # brighter: orange
    assert colours[0, 1, 1, 2] > colours[0, 1, 1, 0]  # darker: blue
    assert not colours[0, 0, 1].any()


def test_minus_one_is_black_and_one_is_white():
    clip = np.array([-3, -1, 0, 1, 2], np.float32).reshape(1, 1, 5, 1)
    np.testing.assert_array_equal(media.to_uint8(clip), [[[0, 0, 128, 255, 255]]])


@pytest.mark.parametrize(
    ("video", "message"),
    [
        (np.zeros((2, 4, 4), np.float32), "must be uint8"),
        (np.zeros((2, 4, 4, 1), np.uint8), r"must be \[F, Y, X\]"),
        (np.zeros((0, 4, 4), np.uint8), r"must be \[F, Y, X\]"),
        (np.zeros((4, 4), np.uint8), r"must be \[F, Y, X\]"),
    ],
)
def test_what_is_no_clip_is_refused(tmp_path, video, message):
    with pytest.raises(ValueError, match=message):
        media.write_gif(tmp_path / "a.gif", video, fps=10)


def test_bad_rates_shapes_and_values_are_refused(tmp_path):
    video = moving_square()
    for rate in (0, 500, float("nan")):
        with pytest.raises(ValueError, match="must be a number from"):
            media.write_gif(tmp_path / "a.gif", video, fps=rate)
    with pytest.raises(ValueError, match="scale=0 must be a whole number, at least 1"):
        media.write_mp4(tmp_path / "a.mp4", video, fps=5, scale=0)
    with pytest.raises(ValueError, match="compare clips of one size"):
        media.difference(video, video[:3])
    with pytest.raises(ValueError, match="has no clip to draw"):
        media.contact_sheet(tmp_path / "a.png", {})
    with pytest.raises(ValueError, match="1 of 2 values that are not finite"):
        media.to_uint8(np.array([[[0.0, np.nan]]]))


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 1, 3), (2, 5, 7), (3, 1, 9, 3)])
def test_small_and_odd_clips_in_every_picture(tmp_path, shape):
    video = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    media.write_gif(tmp_path / "a.gif", video, fps=0.5, scale=1)
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.size == (shape[2], shape[1])
    media.contact_sheet(tmp_path / "a.png", {"": video}, scale=1, gap=0)
    with Image.open(tmp_path / "a.png") as sheet:
        assert sheet.size == (shape[0] * shape[2], shape[1])
    assert media.write_clip(tmp_path, "b", video)["video"] == "b.mp4"
