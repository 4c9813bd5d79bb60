import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsevdit_jax import selection


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
