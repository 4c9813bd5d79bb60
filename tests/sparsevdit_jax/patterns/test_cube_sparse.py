import jax
import numpy as np
import pytest

from sparsevdit_jax import Phase, StepContext, VideoGrid
from sparsevdit_jax.patterns import CubeSparse
from sparsevdit_jax.presets import attention_for
from tests.attending import jitted
from tests.conformance.pattern_suite import make_case
from tests.conformance.pooled_suite import PooledSuite, best, logits, tile_blocks
from tests.sparsevdit_jax import oracles


class TestCubeSparse(PooledSuite):
    pattern = CubeSparse((0.2, 0.3), (2, 2, 2))

    def block_of(self, grid):
        return tile_blocks(grid, (2, 2, 2))

    def keep_blocks(self, q, k, block_of, head):
        scores = logits(q, k, block_of)
        count = max(1, int(np.float32(len(scores)) * np.float32((0.2, 0.3)[head])))
        return best(scores, count) | np.eye(len(scores), dtype=bool)


class Keyframe(PooledSuite):
    """The first frame stands for the second of the others, and shares its cubes; no suite of its own."""

    def block_of(self, grid):
        video = tile_blocks(VideoGrid(grid.frames - 1, *grid.shape[1:]), (1, 2, 2))
        sites = grid.height * grid.width
        return np.concatenate([video[sites : 2 * sites], video])

    def keep_blocks(self, q, k, block_of, head):
        scores = logits(q, k, block_of)
        count = max(1, int(np.float32(len(scores)) * np.float32(0.3)))
        return best(scores, count) | np.eye(len(scores), dtype=bool)


def test_a_keyframe_joins_the_cubes_of_its_frame():
    case, pattern = make_case("text_first"), CubeSparse(0.3, (1, 2, 2), keyframe=1)
    out, lse, _ = jitted(pattern)(*case.qkv, (), case.ctx(Phase.REUSE))
    truth = oracles.masked_attention(*case.qkv, Keyframe().keep_tokens(case))
    np.testing.assert_allclose(out, truth[0], rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(lse, truth[1], rtol=2e-5, atol=2e-5)


def test_an_own_cube_comes_on_top():
    """Every query dislikes its own cube, so that each row keeps one more than the count."""
    grid = VideoGrid(2, 4, 8)
    block_of = tile_blocks(grid, (2, 2, 2))
    k = np.eye(8, dtype=np.float32)[block_of][None, :, None]
    plan, _ = CubeSparse(0.25, (2, 2, 2)).plan(-k, k, (), StepContext(grid))
    keep = np.asarray(plan.mask.to_dense())[0, 0]
    assert keep.sum(1).tolist() == [3] * 8
    assert keep.diagonal().all()


def test_h3_s_ratios():
    grid = VideoGrid(4, 4, 4)
    schedule = attention_for("cube-sparse", grid, num_layers=1, num_heads=1, num_steps=49).schedule
    assert schedule.density is not None
    assert schedule.density[:9] == (1.0, 1.0, 0.55, 0.45, 0.35, 0.35, 0.3, 0.25, 0.25)
    assert schedule.density[18:] == (0.1, *(0.05,) * 30)
    assert schedule.phases()[:3] == (Phase.DENSE, Phase.DENSE, Phase.REUSE)
    short = attention_for("cube-sparse", grid, num_layers=1, num_heads=1, num_steps=4).schedule
    assert short.density == (1.0, 0.1, 0.05, 0.05)


def test_a_keyframe_must_be_there():
    grid = VideoGrid(3, 4, 4)
    with pytest.raises(ValueError, match=r"keyframe=2 must be one of the 2 frames after the first"):
        CubeSparse(keyframe=2).init(grid, batch=1, num_heads=1, head_dim=4)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"density": 0}, r"density=0 must lie in \(0, 1\]"),
        ({"cube": (4, 4)}, r"tile=\(4, 4\) must be 3 whole numbers"),
        ({"keyframe": -1}, "keyframe=-1 must be a whole number of at least 0; count"),
    ],
)
def test_bad_fields(fields, match):
    with pytest.raises(ValueError, match=match):
        CubeSparse(**fields)


def test_float32_decides_the_count():
    """0.7 of 10 is 7 there, and 6 in float64 once 0.7 is float32."""
    grid = VideoGrid(1, 2, 40)
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 80, 1, 4))
    density = float(np.float32(0.7))
    plan, _ = CubeSparse(density, (1, 2, 4)).plan(q, k, (), StepContext(grid))
    assert np.asarray(plan.mask.kv_counts).min() == 7
