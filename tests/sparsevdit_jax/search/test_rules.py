from pathlib import Path

import numpy as np
import pytest

from sparsevdit_jax.search.rules import (
    SparseVditRule,
    agreement,
    calibrate_epsilon,
    least_error,
    shared_over_steps,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "sta_mask_search.npz"


def test_sta_choices_are_fastvideos():
    with np.load(GOLDEN) as golden:
        error = np.moveaxis(golden["losses"], 1, 3)  # prompt, t, layer, candidate, head
        chosen = golden["candidates"][least_error(error)]
        np.testing.assert_array_equal(chosen, golden["strategy_skip0"])


def test_ties_go_to_the_first_candidate():
    assert least_error(np.ones((2, 3, 4)))[0] == 0
    rule = SparseVditRule((0.5, 0.5))
    assert rule.choose(np.ones((2, 1)) * 0.1, np.ones(1))[0] == 0


def test_loss_on_hand_values():
    rule = SparseVditRule((0.2, 1.0), lam=0.5)
    error = np.array([[0.2, 0.95], [0.4, 0.0]])
    np.testing.assert_allclose(rule.loss(error, None), [[0.3, 1.05], [0.9, 0.5]])
    np.testing.assert_array_equal(rule.choose(error, np.ones(2)), [0, 1])
    relative = SparseVditRule((0.2, 1.0), lam=0.5, relative=True)
    np.testing.assert_allclose(relative.loss(error, np.array([2.0, 1.0]))[0, 0], 0.2)


def test_limits_of_epsilon_and_lam():
    error, power = np.random.default_rng(0).random((2, 5, 3, 4)), np.ones((2, 5, 4))
    costs = (0.0, 0.3, 0.6)
    assert (SparseVditRule(costs, epsilon=0.0).choose(error, power) == -1).all()
    cheapest = SparseVditRule(costs, lam=1e6, epsilon=np.inf).choose(error, power)
    assert (cheapest == 0).all()  # the sparsest, whatever its error


@pytest.mark.parametrize(
    "fields",
    [
        dict(lam=np.nan),
        dict(lam=-1.0),
        dict(lam=np.inf),
        dict(epsilon=np.nan),
        dict(costs=(np.nan,)),
    ],
)
def test_rules_hold_numbers(fields):
    with pytest.raises(ValueError, match=r"must (not be negative|be a number)"):
        SparseVditRule(**dict(costs=(1.0,)) | fields)


@pytest.mark.parametrize("target", [1.0, 0.8, 0.5, 0.37])
def test_calibrated_epsilon_meets_the_density_to_a_head(target):
    generator = np.random.default_rng(3)
    error, power = generator.random((6, 4, 3, 8)), np.ones((6, 4, 8))
    densities = np.array([0.0, 0.2, 0.4])
    rule = calibrate_epsilon(
        error, power, SparseVditRule(tuple(densities)), densities, target=target
    )
    density = np.append(densities, 1.0)[rule.choose(error, power)]
    assert target - 1e-9 <= density.mean() <= target + 1 / density.size + 1e-9
    with pytest.raises(ValueError, match="add sparser candidates or raise lam"):
        calibrate_epsilon(error + 5 * (densities == 0)[:, None], power, rule, densities, target=0.1)


def test_agreement_on_hand_values():
    same = agreement(np.array([[0, 1, 2], [0, 1, 2]]), axis=0)
    assert (same.mean, same.kappa) == (1.0, 1.0)
    np.testing.assert_allclose(same.chance, 1 / 3)
    # Three raters, two heads: one pair of three agrees on the first head, all on the second.
    mixed = agreement(np.array([[0, 1], [0, 1], [1, 1]]), axis=0)
    np.testing.assert_allclose(mixed.share, [1 / 3, 1.0])
    np.testing.assert_allclose(mixed.chance, (2 / 6) ** 2 + (4 / 6) ** 2)
    np.testing.assert_allclose(mixed.kappa, (2 / 3 - 5 / 9) / (1 - 5 / 9))
    assert agreement(np.zeros((3, 2), int), axis=0).kappa == 1.0
    with pytest.raises(ValueError, match="needs two"):
        agreement(np.zeros((1, 4), int), axis=0)


def test_shared_over_steps_is_the_mean():
    error = np.arange(24.0).reshape(3, 2, 4)
    np.testing.assert_array_equal(shared_over_steps(error), error.mean(0))
