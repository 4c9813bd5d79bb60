import jax
import numpy as np
import pytest

from sparsevdit_jax import Phase, StepContext, VideoGrid
from sparsevdit_jax.curves import gilbert, gilbert_of_frames
from sparsevdit_jax.patterns import Jenga
from sparsevdit_jax.presets import attention_for
from tests.conformance.pooled_suite import PooledSuite, best, logits, softmax


def curve_blocks(walk, block):
    """Block of each raster token along a walk."""
    place = np.empty(len(walk), int)
    place[walk] = np.arange(len(walk))
    return place // block


def neighbours(grid, block_of):
    """Blocks with tokens at most one step apart along each axis."""
    places = grid.coordinates()
    near = np.abs(places[:, None] - places[None]).max(-1) <= 1
    member = np.eye(block_of.max() + 1, dtype=int)[block_of]
    return member.T @ near @ member > 0


def carved(scores, least, mass):
    weights = softmax(scores)
    keep = best(scores, least)
    for row, w in zip(keep, weights, strict=True):
        order = np.argsort(-w, kind="stable")
        row[order[: int((np.cumsum(w[order]) <= mass).sum()) + 1]] = True
    return keep


class TestJenga(PooledSuite):
    pattern = Jenga((0.1, 0.6), 0.2, block=4)

    def block_of(self, grid):
        return curve_blocks(gilbert(grid.shape), 4)

    def keep_blocks(self, q, k, block_of, head):
        grid = VideoGrid(4, 4, 4) if len(q) == 64 else VideoGrid(3, 5, 4)
        least = int((0.1, 0.6)[head] * (block_of.max() + 1))
        return carved(logits(q, k, block_of), least, 0.2) | neighbours(grid, block_of)


def test_wan_walks_frame_by_frame_and_joins_the_first():
    grid = VideoGrid(3, 6, 8)
    pattern = Jenga(0.1, 0.05, 4, "gilbert-frames", first_frame=True)
    q, k = jax.random.normal(jax.random.key(1), (2, 1, 144, 1, 8))
    plan, _ = pattern.plan(q, k, (), StepContext(grid))
    block_of = curve_blocks(gilbert_of_frames(grid.shape), 4)
    want = carved(logits(q[0, :, 0], k[0, :, 0], block_of), 3, 0.05) | neighbours(grid, block_of)
    first = np.arange(36) < 12
    assert not want[np.ix_(first, first)].all()
    np.testing.assert_array_equal(plan.mask.to_dense()[0, 0], want | (first & first[:, None]))


def test_the_authors_drop_rates():
    """Two stages on HunyuanVideo; on Wan the first steps come down to them, dense above three quarters."""
    make = dict(num_layers=1, num_heads=1)
    hunyuan = attention_for("jenga", VideoGrid(4, 4, 4, 5), model="hunyuanvideo", **make).schedule
    assert hunyuan.density == (0.25,) * 25 + (0.15,) * 25
    wan = attention_for("jenga", VideoGrid(4, 4, 4), model="wan", **make).schedule
    assert wan.density is not None
    assert wan.density[:2] == (1.0, 1.0)
    assert wan.density[2:5] == pytest.approx([1 - 0.75 * 10 * i / 49 for i in (2, 3, 4)])
    assert wan.density[5:] == pytest.approx(hunyuan.density[5:])
    assert wan.phases()[:3] == (Phase.DENSE, Phase.DENSE, Phase.REUSE)


def test_a_step_s_density_is_the_least():
    grid = VideoGrid(2, 8, 16)
    q, k = jax.random.normal(jax.random.key(2), (2, 1, 256, 1, 8))
    run = jax.jit(lambda ctx: Jenga(0.25, 0.01, 8).plan(q, k, (), ctx)[0].mask.kv_counts)
    for step in (0.25, 0.5):
        counts = run(StepContext(grid, density=step, room=0.5))
        assert counts.min() >= int(step * 32)
        assert counts.min() < int(step * 32) + 8


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"density": 2}, r"density=2 must lie in \(0, 1\]"),
        ({"mass": 0}, r"mass=0 must lie in \(0, 1\]"),
        ({"block": 0}, "block=0 must be a whole number"),
        ({"path": "hilbert"}, "path='hilbert' must be one of .*'gilbert'"),
        ({"first_frame": 1}, "first_frame=1 must be True or False"),
    ],
)
def test_bad_fields(fields, match):
    with pytest.raises(ValueError, match=match):
        Jenga(**fields)
