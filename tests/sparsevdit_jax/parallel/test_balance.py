import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsevdit_jax.parallel import assign_heads, imbalance

works = st.lists(st.integers(0, 1000), min_size=1, max_size=50).map(np.array)


@hypothesis.given(works, st.integers(1, 12))
def test_every_head_has_one_place_and_devices_as_many(work, devices):
    order = assign_heads(work, devices)
    assert order.dtype == np.int32
    assert order.shape == (-(-len(work) // devices) * devices,)
    np.testing.assert_array_equal(np.sort(order), np.arange(len(order)))
    if work.any():
        assert imbalance(work, devices, order) >= 1


@pytest.mark.parametrize("seed", range(20))
def test_a_random_mixture_of_densities_is_balanced(seed):
    # 40 heads (Wan 14B) on 8 devices; as they are numbered the busiest does 1.1 to 1.6 times the mean.
    work = np.random.default_rng(seed).uniform(0.05, 1, 40)
    assigned = imbalance(work, 8, assign_heads(work, 8))
    assert assigned <= 1.05
    assert assigned < imbalance(work, 8)


def test_the_best_assignment_of_a_small_case_is_found():
    # 9 + 1, 8 + 2, 7 + 3: 10 each. Pairs as numbered give 17.
    work = np.array([9, 8, 7, 3, 2, 1])
    order = assign_heads(work, 3)
    np.testing.assert_array_equal(work[order].reshape(3, 2).sum(-1), 10)
    assert imbalance(work, 3, order) == 1
    assert imbalance(work, 3) == 1.7


def test_traced_work_is_assigned_in_rounds():
    # Counts that only a search knows: AdaSpa's three levels, half, whole and one and a half.
    work = np.array([10] * 10 + [20] * 20 + [30] * 10, np.int32)
    np.random.default_rng(0).shuffle(work)
    order = np.asarray(jax.jit(assign_heads, static_argnums=1)(jnp.asarray(work), 8))
    assert sorted(order) == list(range(40))
    assert imbalance(work, 8, order) <= 1.1


def test_the_largest_head_of_a_round_goes_to_the_device_with_least():
    # Loads 90, 50, 40, then 101, 62, 79: who has least comes second, so ranks are not the order.
    work = jnp.asarray([90, 50, 40, 39, 12, 11, 9, 5, 1])
    order = jax.jit(assign_heads, static_argnums=1)(work, 3)
    np.testing.assert_array_equal(order, [0, 5, 8, 1, 4, 6, 2, 3, 7])


def test_heads_that_are_none_have_no_work():
    assert imbalance(np.ones(5), 4) == 2 / (5 / 4)
    assert imbalance(np.zeros(5), 4) == 1
