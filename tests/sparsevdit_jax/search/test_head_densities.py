"""Budgets of heads against brute force."""

import itertools

import numpy as np
import pytest

from sparsevdit_jax import TokenOrder, VideoGrid
from sparsevdit_jax.patterns import SubBlock
from sparsevdit_jax.search.head_densities import head_densities, recall_curves


def masses(sharpness, blocks=6, samples=2, seed=0):
    """Rows of a softmax, sharper in some heads: [samples, H, N, N]."""
    logits = np.random.RandomState(seed).standard_normal((samples, len(sharpness), blocks, blocks))
    exps = np.exp(logits * np.asarray(sharpness)[:, None, None])
    return exps / exps.sum(-1, keepdims=True)


def test_curves_are_the_recalls_of_the_best_blocks():
    mass = masses((0.5, 3.0))
    curves = recall_curves(mass)
    for head, kept in itertools.product(range(2), range(1, 7)):
        best = [np.sort(row)[::-1][:kept].sum() for row in mass[:, head].reshape(-1, 6)]
        assert curves[head, kept - 1] == pytest.approx(np.mean(best))
    np.testing.assert_allclose(curves[:, -1], 1)


def test_text_is_always_kept():
    order = TokenOrder(VideoGrid(1, 1, 16, 8), 4)
    mass = masses((1.0,), samples=1)
    curve = recall_curves(mass, order)[0]
    rows = mass[0, 0, :4]
    want = (np.sort(rows[:, :4])[:, ::-1][:, :2].sum() + rows[:, 4:].sum()) / rows.sum()
    assert curve.shape == (4,)
    assert curve[1] == pytest.approx(want)


@pytest.mark.parametrize("density", [0.25, 0.5, 0.8])
def test_no_other_budgets_of_that_mean_have_a_better_worst_head(density):
    """Every choice on a grid of 24 steps for three heads, with recall between whole blocks as stated."""
    curves = recall_curves(masses((0.3, 1.5, 4.0)))
    places = np.arange(1, 7) / 6

    def recalls(densities):
        return np.array([np.interp(d, places, c) for d, c in zip(densities, curves, strict=True)])

    found = head_densities(curves, density)
    assert np.mean(found) == pytest.approx(density)
    worst, free = recalls(found).min(), np.array(found) > 1 / 6 + 1e-9
    np.testing.assert_allclose(recalls(found)[free], worst)
    steps = np.linspace(1 / 6, 1, 25)
    for pair in itertools.product(steps, steps):
        last = 3 * density - sum(pair)
        if 1 / 6 <= last <= 1:
            assert recalls((*pair, last)).min() <= worst + 1e-9
    assert found[0] > found[1] >= found[2]


@pytest.mark.parametrize("blocks", [4, 9, 14])
def test_no_other_counts_have_a_better_mean(blocks):
    curves = recall_curves(masses((0.3, 1.5, 4.0)))
    found = np.array(head_densities(curves, blocks / 18, "mean")) * 6
    counts = np.rint(found).astype(int)
    np.testing.assert_allclose(found, counts, atol=1e-9)
    best = max(
        sum(curves[head, n - 1] for head, n in enumerate(each))
        for each in itertools.product(range(1, 7), repeat=3)
        if sum(each) == blocks
    )
    assert sum(curves[head, n - 1] for head, n in enumerate(counts)) == pytest.approx(best)


def test_a_block_may_be_shared_out_in_part():
    curves = recall_curves(masses((0.3, 1.5, 4.0)))
    assert np.mean(head_densities(curves, 0.4, "mean")) == pytest.approx(0.4)


def test_a_pattern_takes_them():
    curves = recall_curves(masses((0.3, 1.5, 4.0)))
    pattern = SubBlock(density=head_densities(curves, 0.5))
    assert [p.density for p in pattern.at_step(0, 3)] == list(pattern.density)
    assert head_densities(curves, 1.0) == pytest.approx((1.0,) * 3)
    assert head_densities(np.ones((2, 4)), 0.25) == pytest.approx((0.25, 0.25))
    assert head_densities(np.ones((2, 4)), 0.6) == pytest.approx((0.6, 0.6))  # nothing to gain


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: head_densities(np.ones((2, 4)), 0.2), "less than one of 4 blocks"),
        (lambda: head_densities(np.ones((2, 4)), 1, "best"), r"aim='best' must be one of"),
        (lambda: head_densities(np.ones((2, 4)), 0), r"density=0 must lie in \(0, 1\]"),
        (lambda: recall_curves(np.ones((2, 4))), "must be .*heads, N, N"),
        (
            lambda: recall_curves(np.ones((1, 4, 4)), TokenOrder(VideoGrid(1, 1, 8), 4)),
            "which has 2 blocks",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()
