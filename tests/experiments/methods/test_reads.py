import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.methods.picture import QUERY, draw
from experiments.methods.reads import (
    GRID,
    Blocks,
    Reads,
    blocks_of,
    is_online,
    of_plan,
    reads,
    video_like,
)
from pallas_kernels import BlockMask
from sparsevdit_jax import AttentionPattern, AttentionPlan, StepContext, VideoGrid
from sparsevdit_jax.pattern import Attended
from sparsevdit_jax.patterns import LVSA, SVG, LongCatBSA, SkipSoftmax, SlidingTile
from sparsevdit_jax.token_permutation import TokenPermutation

SMALL = VideoGrid(2, 4, 4, text_len=3)


@dataclasses.dataclass(frozen=True)
class Mean(AttentionPattern):
    """Every query takes the mean of all values, from no plan."""

    def compute(self, q, k, v, state, ctx):
        return Attended(jnp.broadcast_to(v.mean(1, keepdims=True), v.shape), None, state)


def test_a_window_of_tiles():
    seen = reads(SlidingTile((1, 2, 4), (1, 1, 1)), grid=SMALL)
    tile = np.append(np.arange(32) // 8, [4] * 3)
    text = tile == 4
    expected = (tile[:, None] == tile) | text[:, None] | text
    np.testing.assert_array_equal(seen.tokens, expected)
    assert seen.blocks.shape == (5, 5)
    assert seen.density == pytest.approx(expected.mean())


def test_a_query_that_is_left_out_reads_what_stands_for_it():
    """Tokens 0 and 2 stay and stand for their neighbours."""
    grid, gather = VideoGrid(1, 1, 4), np.array([[[0, 2]]], np.int32)
    order = TokenPermutation(
        gather, np.array([[[0, 0, 1, 1]]], np.int32), np.full((1, 1, 2), 1, np.int32)
    )
    mask = BlockMask.from_dense(np.eye(2, dtype=bool), block_q=1, block_kv=1)
    x = np.zeros((1, 4, 1, 8), np.float32)
    seen = of_plan(AttentionPlan(mask, order), x, x, StepContext(grid))
    expected = np.zeros((4, 4), bool)
    expected[:2, 0] = expected[2:, 2] = True
    np.testing.assert_array_equal(seen.tokens, expected)
    assert seen.density == pytest.approx(2 / 16)


def test_blocks_that_a_plan_skips_do_not_count():
    grid = VideoGrid(1, 1, 4)
    q = np.ones((1, 4, 1, 64), np.float32)
    k = q * np.array([9, 9, 0, 0], np.float32)[:, None, None]
    mask = BlockMask.full(2, 2, block_q=2, block_kv=2)
    seen = of_plan(AttentionPlan(mask, skip_below=0.1), q, k, StepContext(grid))
    np.testing.assert_array_equal(seen.blocks, [[True, False]] * 2)


def test_weights_where_there_is_no_plan():
    seen = reads(Mean(), grid=SMALL)
    np.testing.assert_allclose(seen.tokens, np.full((35, 35), 1 / 35), rtol=1e-5)
    assert seen.blocks is None


def test_blocks_of_a_plan_and_what_kernels_take():
    found = blocks_of(SlidingTile((1, 8, 8), (1, 1, 1)), VideoGrid(2, 16, 16))
    assert found == Blocks(64, 64, False)
    assert found.on_hopper
    assert blocks_of(SkipSoftmax(), SMALL) == Blocks(128, 128, True)
    assert not Blocks(128, 128, True).on_hopper
    assert not Blocks(1, 64, False).on_hopper
    assert blocks_of(Mean(), SMALL) is None


@pytest.mark.parametrize(
    ("pattern", "online"),
    [
        (SlidingTile((1, 2, 4), (1, 1, 1)), False),
        (LVSA(window=0, reference=1, block=16), False),  # not static, and yet it looks at no q
        (LongCatBSA(), True),
        (SVG(block=16, unit=16), True),  # by its state
        (SkipSoftmax(block_q=16, block_kv=16), True),  # by what its plan skips
        (Mean(), True),
    ],
    ids=lambda value: type(value).__name__,
)
def test_online_is_what_depends_on_q_and_k(pattern, online):
    assert is_online(pattern, SMALL) is online


def test_the_scene_moves_a_column_in_each_frame():
    q, k, _ = video_like(GRID)
    shape = (*GRID.shape, 64)
    q, k = (x[0, : GRID.num_video_tokens, 0].reshape(shape) for x in (q, k))
    moved = (q[3, 5, 6] * k[4, 5, 7]).sum()
    assert moved > (q[3, 5, 6] * k[4, 5, 4]).sum() > (q[3, 5, 6] * k[4, 13, 15]).sum()
    np.testing.assert_array_equal(
        q, video_like(GRID)[0][0, : GRID.num_video_tokens, 0].reshape(shape)
    )


def test_pictures_of_masks_and_of_weights(tmp_path):
    tokens = np.zeros((GRID.num_tokens,) * 2, bool)
    tokens[np.ravel_multi_index(QUERY, GRID.shape), :256] = True
    weights = Reads(None, tokens / np.float32(256))
    draw([("a", Reads(tokens[:4, :4], tokens, 0.1)), ("b", weights)], tmp_path / "p.png")
    assert 3_000 < (tmp_path / "p.png").stat().st_size < 40_000
