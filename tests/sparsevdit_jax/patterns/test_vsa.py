import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsevdit_jax import Phase, StepContext, VideoGrid, attend
from sparsevdit_jax.patterns import VSA
from sparsevdit_jax.selection import ceil_count, row_budget
from tests.conformance.pattern_suite import HEADS, PatternSuite, make_case
from tests.sparsevdit_jax import oracles

TILE = (2, 2, 2)


def cube_of(grid):
    """Cube of each video token."""
    counts = [-(-n // t) for n, t in zip(grid.shape, TILE, strict=True)]
    return np.ravel_multi_index((grid.coordinates() // TILE).T, counts)


def means(x, grid, members):
    """Means [B, N, H, D] of the video tokens of x [B, L, H, D] in each group."""
    video = np.asarray(x, np.float64)[:, grid.video_start :][:, : grid.num_video_tokens]
    return np.stack([video[:, members == n].mean(1) for n in range(members.max() + 1)], 1)


def scores_of(case):
    at = cube_of(case.grid)
    q, k, v = (means(x, case.grid, at) for x in case.qkv)
    return np.einsum("bihd,bjhd->bhij", q, k) * q.shape[-1] ** -0.5, v, at


class TestVSA(PatternSuite):
    pattern = VSA(0.4, TILE)

    def counted_density(self, case, state):
        return self.planned_density(case, state)

    def keep_tokens(self, case):
        scores, _, at = scores_of(case)
        n = scores.shape[-1]
        best = np.argsort(-scores, -1, kind="stable")[..., : int(np.ceil(0.4 * n))]
        kept = np.zeros(scores.shape, bool)
        np.put_along_axis(kept, best, True, -1)
        kept = kept[..., at[:, None], at]
        rows = [
            oracles.join_text(kept[b], case.grid, case.text_lengths, len(kept))[b] for b in range(2)
        ]
        return np.stack(rows)


@pytest.mark.parametrize("name", ["video", "text_first"])
@pytest.mark.parametrize("phase", [Phase.REUSE, Phase.DENSE])
def test_the_side_branch_attends_from_cube_to_cube(name, phase):
    case = make_case(name)
    scores, v, at = scores_of(case)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    coarse = np.einsum("bhij,bjhd->bihd", weights / weights.sum(-1, keepdims=True), v)
    run = jax.jit(lambda qkv, ctx: attend(VSA(0.4, TILE), *qkv, (), ctx).side)
    found = run(case.qkv, case.ctx(phase))
    is_text = oracles.text_tokens(case.grid)
    np.testing.assert_allclose(found[:, ~is_text], coarse[:, at], rtol=1e-5, atol=1e-6)
    assert not np.any(np.asarray(found)[:, is_text])


def test_both_branches_have_gradients():
    case = make_case("video")
    pattern, ctx = VSA(0.4, TILE), case.ctx(Phase.REUSE)

    @jax.jit
    def gradients(q):
        def branch(q, name):
            return getattr(attend(pattern, q, *case.qkv[1:], (), ctx), name).sum()

        return jax.grad(branch)(q, "out"), jax.grad(branch)(q, "side")

    main, side = map(np.asarray, gradients(case.qkv[0]))
    assert main.any()
    assert side.any()


def test_the_density_of_a_step_is_data():
    """Annealing lowers it without another program."""
    grid, pattern = VideoGrid(4, 4, 4), VSA(1.0, TILE)
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 64, HEADS, 8))

    @jax.jit
    def counts(ctx):
        return pattern.plan(q, k, (), ctx)[0].mask.kv_counts

    for density, count in ((1.0, 8), (0.5, 4), (0.01, 1)):
        ctx = StepContext(grid, density=jnp.float32(density), room=1.0)
        assert set(np.asarray(counts(ctx)).flat) == {count}
    assert counts._cache_size() == 1


@pytest.mark.parametrize(
    ("density", "count", "kept"),
    [(0.125, 256, 32), (0.2, 35, 7), (0.2, 36, 8), (0.001, 9, 1), (1.0, 9, 9), (0.1, 30, 3)],
)
def test_cubes_are_counted_up(density, count, kept):
    for given in (None, jnp.float32(density)):
        ctx = StepContext(VideoGrid(1, 1, 1), density=given, room=None if given is None else 1.0)
        found, _ = row_budget(density, count, ctx, rounding=ceil_count)
        assert int(found) == kept


def test_bad_fields():
    with pytest.raises(ValueError, match=r"density=0 must lie in \(0, 1\]"):
        VSA(0)
    with pytest.raises(ValueError, match=r"tile=\(4, 4\) must be 3 whole numbers"):
        VSA(0.5, (4, 4))
