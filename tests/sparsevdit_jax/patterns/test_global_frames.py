import numpy as np
import pytest

from sparsevdit_jax import VideoGrid, metrics
from sparsevdit_jax.patterns import GlobalFrames
from tests.conformance.pattern_suite import PatternSuite
from tests.sparsevdit_jax import oracles


class TestGlobalFrames(PatternSuite):
    pattern = GlobalFrames(2, block=8)

    def keep_tokens(self, case):
        grid = case.grid
        frame = np.arange(grid.num_video_tokens) // (grid.height * grid.width)
        is_global = frame % -(-grid.frames // 2) == 0
        seen = (frame[:, None] == frame) | is_global[:, None] | is_global
        blocks = oracles.frame_major_blocks(grid, 8)
        table = np.zeros((blocks.max() + 1,) * 2, bool)
        np.logical_or.at(table, (blocks[:, None], blocks), seen)
        keep = table[blocks][:, blocks][None]
        return oracles.join_text(keep, grid, case.text_lengths, 2)


@pytest.mark.parametrize(("frames", "count"), [(8, 4), (8, 2), (24, 3), (6, 6), (5, 9), (1, 1)])
def test_density_is_the_paper_s_where_blocks_are_frames(frames, count):
    pattern, count = GlobalFrames(count, block=4), min(frames, count)
    counted = metrics.density(pattern, VideoGrid(frames, 2, 2), num_heads=1)[0]
    expected = 1 - (frames - count) * (frames - count - 1) / frames**2
    np.testing.assert_allclose(counted, expected, rtol=1e-6)


def test_which_frames_are_global():
    assert np.argwhere(~GlobalFrames(2).keep_frames(4)).tolist() == [[1, 3], [3, 1]]
    assert GlobalFrames(3).keep_frames(8)[:, 1].nonzero()[0].tolist() == [0, 1, 3, 6]


def test_bad_fields():
    with pytest.raises(ValueError, match="count=0 must be a whole number of at least 1"):
        GlobalFrames(0)
    with pytest.raises(ValueError, match="block=0 must be a whole number of at least 1"):
        GlobalFrames(1, 0)
