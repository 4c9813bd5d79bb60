"""Where blocks lie on an axis and under pixels."""

import numpy as np
import pytest

from sparsevdit_jax import TokenOrder, VideoGrid
from sparsevdit_jax.masks import layout


@pytest.mark.parametrize(
    ("count", "size", "pixels"),
    [(10, 100, 10), (10, 96, 10), (10, 94, 9), (100, 80, 1), (100, 74, 0), (300, 640, 2)],
)
def test_pixels_of_a_block_come_nearest_to_the_size(count, size, pixels):
    assert layout.pixels_per_block([np.ones(count, int)], size) == pixels


def test_edges_are_whole_where_blocks_have_pixels():
    lengths = np.array([64, 64, 32, 1, 0])
    np.testing.assert_array_equal(layout.block_edges(lengths, 4, 64, 0), [0, 4, 8, 10, 11, 11])
    np.testing.assert_allclose(
        layout.block_edges(lengths, 0, 64, 80.5), np.array([0, 64, 128, 160, 161, 161]) / 2
    )


def test_paint_takes_means_by_area():
    values = np.array([[0.0, 3.0, 6.0]])
    pixels = layout.paint(values, np.array([0.0, 1.0]), np.array([0.0, 0.5, 1.5, 2.0]))
    np.testing.assert_allclose(pixels, [[1.5, 4.5]])
    sharp = layout.paint(values, np.array([0.0, 2.0]), np.array([0.0, 1.0, 3.0, 3.0]))
    np.testing.assert_array_equal(sharp, [[0, 3, 3], [0, 3, 3]])


def test_paint_keeps_what_lies_behind_the_last_whole_pixel():
    pixels = layout.paint(np.ones((1, 3)), np.array([0.0, 1.0]), np.array([0.0, 0.4, 1.1, 1.3]))
    np.testing.assert_allclose(pixels, [[1, 1]])


def test_blocks_of_tokens_and_starts_of_frames():
    grid = VideoGrid(4, 4, 8, text_len=5, text_first=True)
    tiles = TokenOrder(grid, 32, (2, 4, 4))
    assert layout.query_block(tiles, (0, 3, 3)) == 0
    assert layout.query_block(tiles, (0, 0, 4)) == 1
    assert layout.query_block(tiles, (3, 0, 0)) == 2
    np.testing.assert_array_equal(layout.frame_starts(tiles), [2])
    packed = TokenOrder(grid, 64)
    assert layout.query_block(packed, (1, 3, 7)) == 0
    assert layout.query_block(packed, (2, 0, 0)) == 1
    np.testing.assert_array_equal(layout.frame_starts(packed), [0.5, 1, 1.5])
    sites = TokenOrder(grid, 64, axes=(1, 2, 0))
    assert layout.query_block(sites, (3, 1, 7)) == 0
    np.testing.assert_array_equal(layout.frame_starts(sites), [0.5, 1, 1.5])
    assert layout.video_blocks(sites).shape == (4, 4, 8)


def test_text_gets_its_least_width_from_a_whole_pixel_on():
    order = TokenOrder(VideoGrid(33, 45, 80, text_len=256), 64)
    keep = np.ones((order.num_blocks,) * 2, bool)
    (edges, _), per_block = layout.block_layout(keep, order, 640)
    assert per_block == 0
    start = edges[order.num_video_blocks]
    assert start == 639
    assert layout.TEXT_PIXELS <= edges[-1] - start < 2 * layout.TEXT_PIXELS
    assert (np.diff(edges) > 0).all()
    without = layout.block_layout(keep, order, 640, 0)[0][0]
    assert without[-1] == pytest.approx(640)


def test_matrices_are_checked_against_their_order():
    order = TokenOrder(VideoGrid(4, 4, 8), 64)
    layout.check_matrix(np.ones((2, 2)), order, "keep")
    with pytest.raises(ValueError, match=r"keep \(3, 3\) does not fit .* which has 2 blocks"):
        layout.check_matrix(np.ones((3, 3)), order, "keep")
    with pytest.raises(ValueError, match="mass has shape"):
        layout.check_matrix(np.ones((1, 3, 3)), None, "mass")
    with pytest.raises(ValueError, match="inside the video"):
        layout.query_block(order, (0, 4, 0))
    np.testing.assert_array_equal(layout.real_lengths((2, 2), order)[1], [64, 64])
