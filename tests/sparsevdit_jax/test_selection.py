import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsevdit_jax import StepContext, VideoGrid, selection


@pytest.mark.parametrize(("x", "n"), [(0.5, 1), (1.5, 2), (2.5, 3), (2.4, 2), (0.0, 0)])
def test_round_half_up(x, n):
    assert selection.round_half_up(x) == n


def test_block_budget():
    assert [selection.block_budget(d, 10) for d in (0.01, 0.25, 0.2, 1.0)] == [1, 3, 2, 10]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=9, max_size=9), st.sampled_from([1, 4, 9]))
def test_row_top_k_takes_the_lowest_index_of_equal_scores(scores, count):
    got = selection.row_top_k(jnp.asarray([scores], np.float32), count)[0]
    expected = sorted(np.argsort(-np.asarray(scores), kind="stable")[:count])
    assert got.tolist() == expected


def test_lists_of_different_counts():
    ranked = selection.rank_blocks(jnp.asarray([[3.0, 1.0, 2.0], [0.0, 0.0, 1.0]]), 2)
    assert ranked.tolist() == [[0, 2], [2, 0]]
    assert selection.list_ranked(ranked, jnp.asarray([1, 2]), 3).tolist() == [[0, 3], [0, 2]]


def test_head_adaptive_density_of_the_paper():
    recall = jnp.asarray([0.95, 0.9, 0.5, 0.4, 0.6, 0.3])
    got = selection.head_adaptive_density(recall, 0.2)
    np.testing.assert_allclose(got, [0.1, 0.1, 0.2, 0.3, 0.2, 0.3], rtol=1e-6)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.floats(0, 1, width=32), min_size=5, max_size=5),
    st.floats(0.05, 1),
    st.floats(0, 1, width=32),
)
def test_head_adaptive_keeps_the_mean(recall, density, threshold):
    levels = selection.head_levels(jnp.asarray(recall), threshold)
    assert int(levels.sum()) == 0
    got = selection.head_adaptive_density(jnp.asarray(recall), density, threshold)
    assert np.mean(got) == pytest.approx(density, rel=1e-5)
    assert np.all((got >= 0) & (got <= 1 + 1e-6))


def test_equal_recalls_are_ordered_by_head():
    assert selection.head_levels(jnp.full(4, 0.9), 0.8).tolist() == [-1, -1, 1, 1]
    assert selection.head_levels(jnp.full(5, 0.9), 0.8).tolist() == [-1, -1, 0, 1, 1]
    assert selection.head_levels(jnp.full(4, 0.7), 0.8).tolist() == [0] * 4


@given(st.integers(1, 40), st.integers(1, 40))
def test_head_adaptive_counts_are_symmetric(count, num_blocks):
    count = min(count, num_blocks)
    low, base, high = selection.head_adaptive_counts(count, num_blocks)
    assert 1 <= low <= base <= high <= num_blocks
    assert high - base == base - low


CTX = StepContext(VideoGrid(1, 1, 1))


@pytest.mark.parametrize(
    ("density", "rounding", "multiple", "counts"),
    [
        (0.25, selection.round_half_up, 1, 3),
        (0.25, selection.round_up, 1, 3),
        (0.25, selection.round_down, 1, 2),
        (0.01, selection.round_down, 1, 1),
        (0.25, selection.round_up, 8, 8),
        (0.85, selection.round_up, 8, 10),
        ((0.1, 0.62, 1.0), selection.round_up, 1, [1, 7, 10]),
    ],
)
def test_a_row_s_budget(density, rounding, multiple, counts):
    found, room = selection.row_budget(density, 10, CTX, rounding=rounding, multiple=multiple)
    np.testing.assert_array_equal(found, [counts] if isinstance(counts, list) else counts)
    assert room == np.max(counts)


@pytest.mark.parametrize(
    "rounding", [selection.round_half_up, selection.round_up, selection.round_down]
)
def test_a_step_s_density_is_the_mean_of_the_heads(rounding):
    """And the room holds every count that it gives."""
    own = (0.1, 0.2, 0.3)
    budget = functools.partial(selection.row_budget, num_blocks=10, rounding=rounding)
    run = jax.jit(lambda ctx: (budget(own, ctx=ctx)[0], budget(0.4, ctx=ctx)[0]))
    for step, each in ((0.25, [0.125, 0.25, 0.375]), (0.125, [0.0625, 0.125, 0.1875])):
        ctx = StepContext(VideoGrid(1, 1, 1), density=step, room=0.25)
        heads, one = run(ctx)
        assert heads.tolist() == [[max(1, rounding(d * 10)) for d in each]]
        assert int(one) == rounding(step * 10)
        assert budget(own, ctx=ctx)[1] >= heads.max()
        assert budget(0.4, ctx=ctx)[1] >= int(one)
    for tenth in range(1, 11):
        ctx = StepContext(VideoGrid(1, 1, 1), density=tenth / 10)
        assert int(budget(0.4, ctx=ctx)[0]) <= budget(0.4, ctx=ctx)[1]


@pytest.mark.parametrize(
    ("density", "match"),
    [
        (0, r"density=0 must lie in \(0, 1\]"),
        ((0.5, 1.5), "density=1.5 must"),
        ((), "for each head"),
    ],
)
def test_densities_are_shares(density, match):
    with pytest.raises(ValueError, match=match):
        selection.densities(density)
    assert selection.densities([0.5, 1]) == (0.5, 1.0)
