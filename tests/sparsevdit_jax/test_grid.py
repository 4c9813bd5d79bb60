import numpy as np
import pytest

from sparsevdit_jax import VideoGrid


def test_counts_and_positions():
    grid = VideoGrid(3, 4, 5, 7)
    assert grid.shape == (3, 4, 5)
    assert grid.num_video_tokens == 60
    assert grid.num_tokens == 67
    assert (grid.video_start, grid.text_start) == (0, 60)
    assert grid.token(2, 3, 4) == 59
    first = VideoGrid(3, 4, 5, 7, text_first=True)
    assert (first.video_start, first.text_start) == (7, 0)
    assert first.token(0, 1, 2) == 14


def test_coordinates_are_raster():
    grid = VideoGrid(2, 3, 4)
    for index, (frame, row, column) in enumerate(grid.coordinates()):
        assert grid.token(frame, row, column) == index


def test_integers_of_numpy_are_accepted_and_hash_alike():
    assert hash(VideoGrid(np.int64(2), 3, 4)) == hash(VideoGrid(2, 3, 4))


@pytest.mark.parametrize(
    ("args", "match"),
    [
        ((0, 2, 2), "VideoGrid frames=0 must be a whole number of at least 1"),
        ((1, 2.5, 2), "VideoGrid height=2.5 must be a whole number"),
        ((1, 2, -1), "VideoGrid width=-1 must be"),
        ((1, 2, 2, -1), "VideoGrid text_len=-1 must be a whole number of at least 0"),
    ],
)
def test_bad_sizes(args, match):
    with pytest.raises(ValueError, match=match):
        VideoGrid(*args)
