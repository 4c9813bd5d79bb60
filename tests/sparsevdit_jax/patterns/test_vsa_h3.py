import dataclasses

import jax
import numpy as np
import pytest

from sparsevdit_jax import StepContext, VideoGrid, attend
from sparsevdit_jax.patterns import VSA, VSAH3
from tests.conformance.pattern_suite import make_case
from tests.sparsevdit_jax.patterns import test_vsa

TILE = test_vsa.TILE


class TestVSAH3(test_vsa.TestVSA):
    """With one segment of text the chosen cubes are VSA's."""

    pattern = VSAH3(0.4, TILE)


def test_without_text_it_is_vsa():
    case = make_case("video")

    def run(pattern):
        found = jax.jit(lambda qkv: attend(pattern, *qkv, (), StepContext(case.grid)))(case.qkv)
        return found.out, found.side

    for a, b in zip(run(VSAH3(0.4, TILE)), run(VSA(0.4, TILE)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_segments_have_tiles_of_their_own_and_may_compete():
    grid = VideoGrid(4, 4, 4, text_len=12, text_first=True)
    pattern, ctx = VSAH3(0.5, TILE, (3, 9)), StepContext(grid)
    order = pattern.tiles(ctx)
    assert order.lengths[0, 0].tolist() == [3, 8, 1] + [8] * 8
    assert order.positions[0, 0, :4].tolist() == [0, 1, 2, 8]
    q, k = jax.random.normal(jax.random.key(0), (2, 1, grid.num_tokens, 2, 8))
    rows = pattern.plan(q, k, (), ctx)[0].mask.to_dense()[0, 0]
    assert rows[:3].all()
    assert rows[3:, :3].all()
    assert set(rows[3:].sum(-1).tolist()) == {3 + 4}
    rival = dataclasses.replace(pattern, compete=True)
    rows = rival.plan(q, k, (), ctx)[0].mask.to_dense()[0, 0]
    assert set(rows[3:].sum(-1).tolist()) == {3 + 4}
    assert not rows[3:, :3].all()


def test_padding_of_text_has_no_part_in_the_side_branch():
    case = make_case("text_first")
    pattern = VSAH3(0.4, TILE)
    run = jax.jit(lambda qkv, ctx: attend(pattern, *qkv, (), ctx).side)
    side = run(case.qkv, StepContext(case.grid, text_lengths=case.text_lengths))
    for row, length in enumerate(case.text_lengths):
        assert not np.any(np.asarray(side)[row, length : case.grid.text_len])
    shorter = dataclasses.replace(case.grid, text_len=6)
    alone = run(case.qkv[:, 1:, 3:].at[:, :, :6].set(case.qkv[:, 1:, :6]), StepContext(shorter))
    np.testing.assert_allclose(side[1, 9:], alone[0, 6:], rtol=1e-5, atol=1e-6)


def test_bad_fields():
    with pytest.raises(ValueError, match="segments=7 must be whole numbers of at least 1"):
        VSAH3(0.5, TILE, 7)
    grid = VideoGrid(4, 4, 4, text_len=12)
    with pytest.raises(ValueError, match=r"segments=\(3, 8\) have 11 tokens, but .* has 12"):
        VSAH3(0.5, TILE, (3, 8)).init(grid, batch=1, num_heads=2, head_dim=8)
    ctx = StepContext(grid, text_lengths=np.array([5]))
    with pytest.raises(ValueError, match=r"text_lengths say nothing of segments=\(3, 9\)"):
        VSAH3(0.5, TILE, (3, 9)).tiles(ctx)
