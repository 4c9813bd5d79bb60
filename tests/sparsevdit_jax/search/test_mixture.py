import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsevdit_jax.search.mixture import assign, uniform


def brute_force(objective, weight, budget):
    heads = np.arange(len(objective))
    ways = np.array(list(itertools.product(range(objective.shape[1]), repeat=len(objective))))
    within = weight[heads, ways].sum(1) <= budget + 1e-9 * abs(budget)
    return objective[heads, ways[within]].sum(1).min()


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 4), st.floats(0, 1))
def test_least_error_and_least_cost_are_those_of_all_assignments(seed, heads, candidates, share):
    generator = np.random.default_rng(seed)
    error = generator.random((heads, candidates)) ** 3
    cost = np.round(generator.random((heads, candidates)), 1)  # with ties
    low, high = cost.min(1).sum(), cost.max(1).sum()
    budget = low + share * (high - low)
    found = assign(error, cost, cost_budget=budget)
    np.testing.assert_allclose(found.error, brute_force(error, cost, budget), rtol=1e-9)
    assert found.cost <= budget * (1 + 1e-9)
    assert found.bound <= found.error * (1 + 1e-6)
    low, high = error.min(1).sum(), error.max(1).sum()
    budget = low + share * (high - low)
    found = assign(error, cost, error_budget=budget)
    np.testing.assert_allclose(found.cost, brute_force(cost, error, budget), rtol=1e-9, atol=1e-12)
    assert found.error <= budget * (1 + 1e-9)


def test_never_worse_than_any_single_method_at_its_own_cost():
    generator = np.random.default_rng(1)
    error = generator.lognormal(sigma=2, size=(72, 9)) * np.linspace(3, 0, 9) ** 2
    cost = np.linspace(0, 1, 9)
    for single in uniform(error, cost):
        mixed = assign(error, cost, cost_budget=single.cost)
        assert mixed.error <= single.error * (1 + 1e-12)
        assert mixed.cost <= single.cost * (1 + 1e-9)


def test_a_model_of_1440_heads_is_solved_to_the_bound():
    generator = np.random.default_rng(2)
    error = generator.lognormal(sigma=2, size=(1440, 15)) * generator.random((1, 15))
    cost = generator.random(15)
    found = assign(error, cost, cost_budget=0.3 * 1440)
    assert found.cost <= 0.3 * 1440 * (1 + 1e-9)
    np.testing.assert_allclose(found.error, found.bound, rtol=1e-6)


def test_infinite_errors_are_never_chosen():
    error = np.array([[np.inf, 1.0], [0.0, 5.0]])
    np.testing.assert_array_equal(assign(error, [0.0, 1.0], cost_budget=1.0).choice, [1, 0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(error=np.ones(3), cost=np.ones(3), cost_budget=1), "must be"),
        (dict(error=np.ones((2, 2)), cost=[1, 2]), "not both or none"),
        (dict(error=np.ones((2, 2)), cost=[1, 2], cost_budget=1, error_budget=1), "not both"),
        (dict(error=np.ones((2, 2)), cost=[1, 2], cost_budget=1.5), "below 2"),
        (
            dict(error=np.ones((2, 2)), cost=[1, 2], cost_budget=np.nan),
            "budget=nan must be a number",
        ),
        (dict(error=np.full((2, 2), np.inf), cost=[1, 2], cost_budget=9), "head 0 has no"),
    ],
)
def test_bad_calls_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        assign(**arguments)
