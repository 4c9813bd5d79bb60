import jax
import numpy as np

from pallas_kernels import BlockMask
from sparsevdit_jax import AttentionPlan, StepContext, TokenPermutation, VideoGrid
from tests.sparsevdit_jax import oracles


def test_a_full_plan_is_dense_among_the_tokens_that_its_order_holds():
    grid, ctx = VideoGrid(1, 2, 4), StepContext(VideoGrid(1, 2, 4))
    qkv = jax.random.normal(jax.random.key(0), (3, 1, 8, 2, 4))
    full = BlockMask.full(2, 2, block_q=4, block_kv=4)
    everything = np.ones((1, 1, 8, 8), bool)
    out, _ = AttentionPlan.everything(grid).attend(*qkv, ctx)
    np.testing.assert_allclose(out, oracles.masked_attention(*qkv, everything)[0], atol=2e-5)
    held = np.array([6, 1, 3, 4, 0, 8, 8, 8], np.int32)  # 2, 5 and 7 take the result of 0
    places = np.array([4, 1, 4, 2, 3, 4, 0, 4], np.int32)
    lengths = np.array([4, 1], np.int32)[None, None]
    order = TokenPermutation(held[None, None], places[None, None], lengths)
    out, lse = AttentionPlan(full, order).attend(*qkv, ctx)
    keep = everything & np.isin(np.arange(8), held)
    served = qkv[0][:, np.where(places == 4, 0, np.arange(8))]
    expected, expected_lse = oracles.masked_attention(served, *qkv[1:], keep)
    np.testing.assert_allclose(out, expected, atol=2e-5)
    np.testing.assert_allclose(lse, expected_lse, atol=2e-5)


def test_nothing_attends_to_nothing():
    grid = VideoGrid(1, 1, 3)
    q = jax.random.normal(jax.random.key(0), (1, 3, 2, 4))
    out, lse = AttentionPlan.nothing(grid).attend(q, q, q, StepContext(grid))
    assert not np.any(out)
    assert np.all(np.isneginf(lse))
