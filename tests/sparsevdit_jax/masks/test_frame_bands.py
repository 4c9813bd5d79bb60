import time

import jax
import numpy as np
import pytest

from sparsevdit_jax import VideoGrid
from sparsevdit_jax.masks.frame_bands import FrameBands, fitted_block, frame_blocks


def tokens(size, widths):
    """Bool [F P, F P], pair by pair."""
    place, frame = np.arange(size), np.arange(len(widths))
    near = np.abs(place[:, None] - place)[None, :, None] <= widths[:, None, :, None]
    return near.reshape(len(frame) * size, len(frame) * size)


def cut(keep, block):
    """[N, block, N, block], padded with pairs that are not kept."""
    count = -(-len(keep) // block)
    padded = np.pad(keep, (0, count * block - len(keep)))
    return padded.reshape(count, block, count, block)


@pytest.mark.parametrize(
    ("size", "block"), [(1, 1), (1, 4), (7, 3), (12, 4), (10, 16), (9, 9), (5, 1)]
)
def test_blocks_are_those_of_the_token_pairs(size, block):
    rng = np.random.default_rng(size * block)
    widths = rng.integers(-1, size + 1, (4, 4))
    bands, keep = FrameBands(size, widths), tokens(size, widths)
    assert bands.pairs() == keep.sum()
    np.testing.assert_array_equal(bands.touched(block), cut(keep, block).any((1, 3)))


@pytest.mark.parametrize(("size", "block"), [(12, 4), (13, 4), (14, 4), (5, 8), (9, 3)])
def test_crowded_blocks_are_judged_in_each_frame_pair_alone(size, block):
    widths = np.random.default_rng(size).integers(-1, size + 1, (5, 5))
    bands, rows = FrameBands(size, widths), 2
    count, pieces = bands.num_blocks(block), -(-size // block)
    expected = np.zeros((count, count), bool)
    for one in range(5):
        for other in range(5):
            alone = np.full((5, 5), -1)
            alone[one, other] = widths[one, other]
            seen = cut(tokens(size, alone), block).sum(1)  # [N, N, block]: queries that see a key
            kept = 5 * (seen >= rows).sum(-1) > 3 * (seen > 0).sum(-1)
            begin = one * size // block, other * size // block
            kept[begin[0] + pieces :] = kept[:, begin[1] + pieces :] = False
            expected |= kept
    np.testing.assert_array_equal(bands.crowded(block, rows, (3, 5)), expected)


@pytest.mark.parametrize(("size", "block"), [(4, 4), (6, 4), (3, 8), (5, 1)])
def test_whole_frames(size, block):
    keep = np.random.default_rng(0).random((6, 6)) < 0.3
    grid = VideoGrid(6, 1, size)
    expected = FrameBands(size, np.where(keep, size - 1, -1)).touched(block)
    np.testing.assert_array_equal(frame_blocks(keep, grid, block), expected)
    found = jax.jit(lambda keep: frame_blocks(keep, grid, block))(keep)
    np.testing.assert_array_equal(found, expected)


def test_blocks_fit_small_canvases():
    found = [fitted_block(VideoGrid(9, *s)) for s in ((45, 80), (8, 8), (9, 13), (1, 1))]
    assert found == [128, 32, 32, 16]


def test_a_long_clip_takes_less_than_a_second():
    widths = np.full((33, 33), 200)
    start = time.perf_counter()
    keep = FrameBands(3600, widths).touched(128)
    assert time.perf_counter() - start < 1
    assert keep.shape == (929, 929)
