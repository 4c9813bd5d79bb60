import math

import jax
import numpy as np
import pytest

from sparsevdit_jax import Phase
from sparsevdit_jax.patterns import LiteAttention
from sparsevdit_jax.patterns.lite_attention import LiteState, next_lists
from tests.attending import jitted
from tests.conformance.compensated_suite import cut
from tests.conformance.pattern_suite import BATCH, PatternSuite, make_case
from tests.sparsevdit_jax import oracles

BLOCK_Q, BLOCK_KV = 2, 8


def walk(runs, stays):
    """Runs (first, last), descending, after a vote: a plain state machine."""
    found = []
    for first, last in runs:
        start = None
        for tile in range(first, last - 1, -1):
            if stays[tile] and start is None:
                start = tile
            elif not stays[tile] and start is not None:
                found.append((start, tile))  # the tile that closes a run is listed once more
                start = None
        if start is not None:
            found.append((start, last))
    return found


def listed(runs, count):
    found = np.zeros((2, count), bool)
    for first, last in runs:
        found[0, last : first + 1] = found[1, first] = True
    return found


class TestLiteAttention(PatternSuite):
    """Of the second step, whose lists the first has voted for with the same q and k."""

    pattern = LiteAttention(-0.7, BLOCK_Q, BLOCK_KV)

    @classmethod
    def state(cls, case, attend):
        return attend(*case.qkv, cls._fresh(case), case.ctx(Phase.REUSE))[2]

    @pytest.fixture(scope="class")
    @classmethod
    def reuse(cls, case, attend):
        state = cls.state(case, attend)
        return state, *attend(*case.qkv, state, case.ctx(Phase.REUSE))[:2]

    def lists(self, case):
        """Bool [B, H, N, N] by loops over the walk of every query block."""
        grid = case.grid
        block_q, block = cut(grid, BLOCK_Q), cut(grid, BLOCK_KV)
        count = block.max() + 1
        q, k = (np.asarray(x, np.float64) for x in case.qkv[:2])
        real = oracles.real_tokens(grid, case.text_lengths, BATCH)
        found = np.zeros((BATCH, q.shape[2], block_q.max() + 1, count), bool)
        for b, h, i in np.ndindex(*found.shape[:3]):
            rows = np.flatnonzero((block_q == i) & real[b])
            kept = len(rows) < BLOCK_Q and not self.pattern.short_votes
            stays, top = np.full(count, kept), np.full(len(rows), -np.inf)
            for j in range(count)[::-1]:
                keys = np.flatnonzero((block == j) & real[b])
                if not len(keys) or not len(rows):
                    continue
                tile = (q[b, rows, h] @ k[b, keys, h].T).max(-1) * q.shape[-1] ** -0.5
                stays[j] |= (tile - top > self.pattern.threshold * math.log(2)).any()
                top = np.maximum(top, tile)
            found[b, h, i] = listed(walk([(count - 1, 0)], stays), count)[0]
        return found

    def keep_tokens(self, case):
        block_q, block = cut(case.grid, BLOCK_Q), cut(case.grid, BLOCK_KV)
        real = oracles.real_tokens(case.grid, case.text_lengths, BATCH)
        keep = self.lists(case)[:, :, block_q][..., block]
        return keep & real[:, None, :, None] & real[:, None, None, :]

    def test_something_is_dropped(self, case, reuse):
        assert 0.5 < np.asarray(reuse[0].listed).mean() < 0.95
        np.testing.assert_array_equal(self.pattern.density_on(case.grid, 2), 1)


def test_a_short_block_of_queries_may_vote_too():
    case, suite = make_case("text_last"), TestLiteAttention()
    suite.pattern = LiteAttention(-0.7, BLOCK_Q, BLOCK_KV, short_votes=True)
    state = suite.state(case, jitted(suite.pattern))
    real = oracles.real_tokens(case.grid, case.text_lengths, BATCH)
    rows = np.stack([np.bincount(cut(case.grid, BLOCK_Q), r) > 0 for r in real])
    got, want = np.asarray(state.listed), suite.lists(case)
    np.testing.assert_array_equal(got & rows[:, None, :, None], want & rows[:, None, :, None])
    assert want.sum() < TestLiteAttention().lists(case).sum()


def test_runs_of_random_votes_are_those_of_a_state_machine():
    rng, count = np.random.default_rng(0), 12
    runs = [[(count - 1, 0)] for _ in range(40)]
    state = LiteState(*np.stack([listed(r, count) for r in runs], 1)[:, None, None])
    step = jax.jit(next_lists)
    for chance in (0.9, 0.8, 0.7):
        stays = (rng.random((40, count)) < chance) & np.asarray(state.listed[0, 0])
        runs = [walk(r, s) for r, s in zip(runs, stays, strict=True)]
        state = step(state, stays[None, None])
        want = np.stack([listed(r, count) for r in runs], 1)
        np.testing.assert_array_equal(state.listed[0, 0], want[0])
        np.testing.assert_array_equal(state.opens[0, 0], want[1])


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("threshold", 1.0, "finite number of at most 0"),
        ("threshold", -math.inf, "finite number of at most 0"),
        ("block_q", 0, "whole number of at least 1"),
        ("block_kv", 2.5, "whole number of at least 1"),
    ],
)
def test_bad_fields_are_refused(field, value, rule):
    with pytest.raises(ValueError, match=f"{field}=.*{rule}"):
        LiteAttention(**{field: value})
