import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsevdit_jax import Phase, StepContext, VideoGrid
from sparsevdit_jax.ops import attend_dense
from sparsevdit_jax.patterns import (
    AdaSpa,
    Dense,
    Diagonal,
    MultiDiagonal,
    PerHead,
    Skip,
    SlidingTile,
)
from sparsevdit_jax.search.probe import Probe
from sparsevdit_jax.search.rules import SparseVditRule
from tests import tolerances
from tests.attending import attended, jitted

GRID = VideoGrid(4, 4, 4, text_len=5)
CANDIDATES = (
    Dense(),
    Skip(),
    Diagonal(0.3, 8),
    MultiDiagonal(0.3, 8),
    SlidingTile((2, 2, 2), (1, 1, 1)),
)
HEADS = 3


def inputs(batch=2):
    return tuple(jax.random.normal(jax.random.key(1), (3, batch, GRID.num_tokens, HEADS, 8)))


def run(pattern, phases=(Phase.REUSE,), text_lengths=None, batch=2):
    q, k, v = inputs(batch)
    state = pattern.init(GRID, batch=batch, num_heads=HEADS, head_dim=8)
    attend = jitted(pattern)
    for phase in phases:
        ctx = StepContext(GRID, phase, text_lengths=text_lengths)
        out, _, state = attend(q, k, v, state, ctx)
    return out, state, ctx, (q, k, v)


def test_errors_are_those_of_the_candidates_alone_and_the_exact_output_goes_on():
    out, state, ctx, (q, k, v) = run(Probe(CANDIDATES), text_lengths=np.array([5, 2]))
    exact, _ = attend_dense(q, k, v, ctx)
    np.testing.assert_array_equal(out, exact)
    np.testing.assert_array_equal(state.choice, -1)
    power, n = np.square(exact).mean((1, 3)), 3 + GRID.num_tokens * 8 / 3  # a mean of squares
    tolerances.assert_rounding_apart(state.power, power, n, "power")
    for i, pattern in enumerate(CANDIDATES):
        own, *_ = attended(
            pattern, q, k, v, pattern.init(GRID, batch=2, num_heads=HEADS, head_dim=8), ctx
        )
        np.testing.assert_allclose(
            state.error[..., i], np.square(own - exact).mean((1, 3)), rtol=1e-4, atol=1e-12
        )
    np.testing.assert_allclose(state.error[..., 0], 0, atol=1e-12)
    tolerances.assert_rounding_apart(state.error[..., 1], state.power, n, "error of nothing")
    assert (np.asarray(state.error[..., 2:]) > 1e-6).all()


def test_with_a_rule_each_head_goes_on_with_its_own_choice_one_for_all_rows():
    measured = run(Probe(CANDIDATES))[1]
    error = np.asarray(measured.error).mean(0).T
    # A price at which heads differ, so that the feed is seen to differ with them.
    rule = SparseVditRule(costs=(1, 0, 0.3, 0.3, 0.3), lam=0.15, epsilon=1.0)
    expected = rule.choose(error, np.asarray(measured.power).mean(0))
    out, state, ctx, (q, k, v) = run(Probe(CANDIDATES, rule))
    np.testing.assert_array_equal(state.choice, [expected] * 2)
    mixed = PerHead.of(Dense() if i < 0 else CANDIDATES[i] for i in expected.tolist())
    alone, *_ = attended(
        mixed, q, k, v, mixed.init(GRID, batch=2, num_heads=HEADS, head_dim=8), ctx
    )
    np.testing.assert_allclose(out, alone, rtol=1e-5, atol=1e-6)
    full = SparseVditRule(rule.costs, epsilon=-1.0)
    out, state, ctx, _ = run(Probe(CANDIDATES, full))
    np.testing.assert_array_equal(state.choice, -1)
    np.testing.assert_array_equal(out, attend_dense(q, k, v, ctx)[0])


def test_a_dense_step_measures_nothing_and_keeps_the_state():
    out, state, ctx, (q, k, v) = run(Probe(CANDIDATES), (Phase.REUSE, Phase.DENSE))
    np.testing.assert_array_equal(state.error, run(Probe(CANDIDATES))[1].error)
    np.testing.assert_array_equal(out, attend_dense(q, k, v, ctx)[0])


def test_candidates_that_search_online_keep_their_own_states():
    pattern = AdaSpa(0.3, 8, head_adaptive=False)
    phases = (Phase.DENSE, Phase.FIRST_SEARCH)
    _, first, *_ = run(Probe((pattern,)), phases)
    np.testing.assert_allclose(first.error, 0, atol=1e-12)  # the first search is exact
    _, state, ctx, (q, k, v) = run(Probe((pattern,)), (*phases, Phase.REUSE))
    _, _, own = attended(pattern, q, k, v, first.inner[0], ctx)
    np.testing.assert_array_equal(state.inner[0].mask.kv_indices, own.mask.kv_indices)
    assert (np.asarray(state.error) > 1e-6).all()
    assert jax.tree.structure(first) == jax.tree.structure(state)


def test_planted_heads_find_their_modes():
    grid = VideoGrid(8, 4, 4)
    frame, site = np.divmod(np.arange(128), 16)
    # One-hot codes make the logits of a head a function of what two tokens have in common.
    sites = 12.0 * np.eye(16, dtype=np.float32)[site]
    frames = 12.0 * np.eye(16, dtype=np.float32)[frame]
    keys = np.zeros((128, 16), np.float32)
    keys[:16, 0] = 40.0  # the first frame, for everyone
    ones = np.eye(16, dtype=np.float32)[np.zeros(128, int)]
    nothing = np.zeros_like(sites)
    q = jnp.asarray(np.stack([frames, sites, ones, nothing], 1)[None])
    k = jnp.asarray(np.stack([frames, sites, keys, nothing], 1)[None])
    v = jax.random.normal(jax.random.key(0), (1, 128, 4, 16)).at[:, :, 3].set(0.0)
    from sparsevdit_jax.patterns import VerticalStripe

    candidates = (Skip(), Diagonal(0.25, 16), MultiDiagonal(0.25, 16), VerticalStripe(0.25, 16))
    rule = SparseVditRule(costs=(0, 0.25, 0.25, 0.25), lam=0.01)
    probe = Probe(candidates, rule)
    state = probe.init(grid, batch=1, num_heads=4, head_dim=16)
    *_, state = attended(probe, q, k, v, state, StepContext(grid))
    np.testing.assert_array_equal(state.choice, [[1, 2, 3, 0]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((),), "name one pattern"),
        (((Skip(), Skip()),), "twice"),
        ((("sta",),), "patterns that serve any head"),
        (((Skip(),), SparseVditRule((0.1, 0.2))), "2 costs for 1 candidates"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Probe(*arguments)
