"""Rules against a loop over sorted rows; small whole numbers make ties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsevdit_jax import TokenOrder, VideoGrid
from sparsevdit_jax.block_rules import keep_from, keep_over_head, keep_share, keep_top, video_mask

SCORES = np.random.RandomState(0).randint(-3, 4, (2, 3, 5, 7)).astype(np.float32)


def ranked(row):
    return np.argsort(-row, kind="stable")


def rows(rule):
    """`rule(row, place)` -> indices to keep, for every row of SCORES."""
    keep = np.zeros(SCORES.shape, bool)
    for place in np.ndindex(*SCORES.shape[:-1]):
        keep[place][rule(SCORES[place], place)] = True
    return keep


COUNTS = np.random.RandomState(1).randint(0, 8, SCORES.shape[:-1]).astype(np.int32)


def test_the_highest_of_a_row_ties_by_index():
    np.testing.assert_array_equal(keep_top(SCORES, 3), rows(lambda row, _: ranked(row)[:3]))
    want = rows(lambda row, place: ranked(row)[: COUNTS[place]])
    np.testing.assert_array_equal(keep_top(SCORES, COUNTS), want)
    np.testing.assert_array_equal(keep_top(jnp.full((1, 4), -jnp.inf), 2), [[1, 1, 0, 0]])


def test_what_is_not_below_a_rank_with_its_ties():
    want = rows(lambda row, _: row >= np.sort(row)[::-1][3])
    np.testing.assert_array_equal(keep_from(SCORES, 4), want)


def test_one_threshold_for_a_head():
    dropped = np.array([[0, 1, 20], [34, 35, 7]], np.int32)
    got = keep_over_head(SCORES, dropped)
    for head in np.ndindex(2, 3):
        limit = np.sort(SCORES[head].ravel())[max(dropped[head] - 1, 0)]
        np.testing.assert_array_equal(got[head], SCORES[head] >= limit)
    assert got[0, 0].all()


@pytest.mark.parametrize("crossing", [False, True])
@pytest.mark.parametrize("least", [0, 2])
def test_a_share_of_a_row(crossing, least):
    weights = np.exp(SCORES) / np.exp(SCORES).sum(-1, keepdims=True)

    def rule(row, place):
        taken, order = 0.0, ranked(row)
        for n, i in enumerate(order):
            taken += float(weights[place][i])
            if taken > 0.6:
                return order[: max(n + int(crossing), least)]
        return order

    got = jax.jit(lambda w: keep_share(w, 0.6, crossing=crossing, least=least))(weights)
    np.testing.assert_array_equal(got, rows(rule))


def test_a_share_can_be_nothing_and_all():
    weights = np.array([[0.75, 0.25]], np.float32)
    assert not keep_share(weights, 0.5, crossing=False).any()
    assert keep_share(weights, 1.0, crossing=True).all()
    assert keep_share(weights, 1.0, crossing=False).all()


def test_a_mask_of_video_blocks_keeps_text():
    order = TokenOrder(VideoGrid(1, 2, 6, 5), 4)
    keep = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1]], bool)
    want = [[1, 0, 1, 1, 1], [0, 0, 0, 1, 1], *[[1] * 5] * 3]
    for mask in (
        video_mask(keep[None, None], order),
        jax.jit(lambda k: video_mask(k, order, 2))(keep[None, None]),
    ):
        np.testing.assert_array_equal(mask.to_dense()[0, 0], want)
    assert jax.eval_shape(lambda k: video_mask(k, order, 1), keep[None, None]).capacity == 3
