import jax
import numpy as np
import pytest

from sparsevdit_jax import Phase, StepContext, VideoGrid, attend
from sparsevdit_jax.patterns import SLA
from tests.conformance.linear_op_suite import exact, softmax
from tests.conformance.pattern_suite import PatternSuite, make_case
from tests.sparsevdit_jax import oracles


def blocks_of(case, block):
    """Block of each video token, in raster order."""
    return np.arange(case.grid.num_video_tokens) // block


def keep_of(case, density=0.4):
    rows, columns = blocks_of(case, 16), blocks_of(case, 8)
    start = case.grid.video_start

    def means(x, at):
        video = np.asarray(x, np.float64)[:, start : start + len(at)]
        return np.stack([video[:, at == n].mean(1) for n in range(at.max() + 1)], 1)

    scores = np.einsum("bihd,bjhd->bhij", means(case.qkv[0], rows), means(case.qkv[1], columns))
    best = np.argsort(-scores, -1, kind="stable")[..., : max(1, int(density * scores.shape[-1]))]
    kept = np.zeros(scores.shape, bool)
    np.put_along_axis(kept, best, True, -1)
    kept = kept[..., rows[:, None], columns]
    each = [oracles.join_text(k, case.grid, case.text_lengths, len(kept)) for k in kept]
    return np.stack([each[row][row] for row in range(len(kept))])


class TestSLA(PatternSuite):
    pattern = SLA(0.4, 16, 8)

    def counted_density(self, case, state):
        return self.planned_density(case, state)

    def keep_tokens(self, case):
        return keep_of(case)


@pytest.mark.parametrize("name", ["video", "text_first"])
@pytest.mark.parametrize("over", ["all", "rest"])
def test_the_side_branch_is_linear_attention(name, over):
    case = make_case(name)
    pattern = SLA(0.4, 16, 8, over=over)
    run = jax.jit(lambda qkv, ctx: attend(pattern, *qkv, (), ctx).side)
    side = run(case.qkv, case.ctx(Phase.REUSE))
    real = oracles.real_tokens(case.grid, case.text_lengths, 2)
    keep = np.broadcast_to(
        real[:, None, :, None] & real[:, None, None], (2, 2, *real.shape[1:] * 2)
    )
    if over == "rest":
        keep = keep & ~keep_of(case)
    expected = exact(*case.qkv, keep, softmax, 1e-5)
    np.testing.assert_allclose(side, expected, rtol=1e-5, atol=1e-6)


def test_dense_steps_have_the_branch_they_were_trained_with():
    case = make_case("video")
    for over in ("all", "rest"):
        side = attend(SLA(0.4, 16, 8, over=over), *case.qkv, (), case.ctx(Phase.DENSE)).side
        assert np.any(np.asarray(side)) == (over == "all")  # dense attention leaves nothing over


def test_heads_may_have_densities_of_their_own():
    grid = VideoGrid(4, 4, 4)
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 64, 2, 8))
    mask = SLA((0.25, 0.5), 16, 8).plan(q, k, (), StepContext(grid))[0].mask
    assert mask.kv_counts[0, :, 0].tolist() == [2, 4]


def test_bad_fields():
    with pytest.raises(ValueError, match="block_q=0 must be a whole number of at least 1"):
        SLA(0.5, 0)
    with pytest.raises(ValueError, match="feature_map='exp' must be one of softmax, elu, relu"):
        SLA(0.5, feature_map="exp")
    with pytest.raises(ValueError, match="over='most' must be 'all' or 'rest'"):
        SLA(0.5, over="most")
