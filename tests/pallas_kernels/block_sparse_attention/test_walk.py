import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from pallas_kernels import BlockMask, _real_lists
from pallas_kernels.block_sparse_attention import _walk

BLOCK = 128


def visits(mask, batch, heads):
    """How often each key block is visited for each query block, and the steps taken, by `over_heads`."""
    nq, nk = mask.num_q_blocks, mask.num_kv_blocks
    q = jnp.zeros((batch, nq * BLOCK, heads, 1))
    lists = _real_lists.of(mask, nq * BLOCK, nk * BLOCK, tile=BLOCK, step=BLOCK)
    plan = _walk.Plan.of(lists, BLOCK)
    keys = [jnp.zeros((batch, heads, nk, BLOCK, 1))] * 2
    bias = jnp.zeros((1, 1, nk, BLOCK))

    def count(steps, walk, sums):
        def visit(step, counts):
            blocks, (_, _, bias_k) = walk.fetch(step, keys, bias)
            listed = bias_k.reshape(*blocks.shape, BLOCK)[..., 0] == 0.0
            hits = jnp.where(listed[..., None], jax.nn.one_hot(blocks % np.int32(nk), nk), 0.0)
            return counts + hits.sum(1)

        return steps + walk.steps, (lax.fori_loop(0, walk.steps, visit, *sums),)

    results = [jnp.zeros((batch * heads * plan.num_rows, nk))]
    fresh = ((0.0, (nk,)),)

    def run(lists):
        return _walk.over_heads(lists, plan, q, fresh, count, count, jnp.int32(0), results)

    steps, (counts,) = jax.jit(run)(jax.tree.map(jnp.asarray, lists))
    return np.asarray(counts), int(steps), plan


@settings(max_examples=12, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([(1, 2, 5, 9), (2, 1, 30, 40), (1, 1, 1, 3), (1, 3, 49, 20)]),
    st.floats(0, 1),
    st.booleans(),
)
def test_every_listed_block_is_visited_once(seed, shape, density, text):
    rng, (batch, heads, nq, _) = np.random.default_rng(seed), shape
    keep = rng.random(shape) < density
    keep[:, :, rng.integers(nq)] = False
    if text:
        keep[:, :, -1] = True
    mask = BlockMask.from_dense(keep, block_q=BLOCK, block_kv=BLOCK)
    counts, _, _ = visits(mask, batch, heads)
    np.testing.assert_array_equal(counts, keep)


def test_broadcast_masks_serve_every_head():
    keep = np.random.default_rng(0).random((1, 1, 6, 7)) < 0.5
    mask = BlockMask.from_dense(keep, block_q=BLOCK, block_kv=BLOCK)
    counts, _, _ = visits(mask, 2, 3)
    np.testing.assert_array_equal(counts, np.broadcast_to(keep, counts.shape))


@pytest.mark.parametrize(("text_rows", "extra"), [(0, 0), (1, 12), (2, 12)])
def test_a_few_long_rows_hold_nobody_up(text_rows, extra):
    keep = np.zeros((1, 1, 48, 96), bool)
    keep[..., :4] = True
    keep[:, :, :text_rows] = True
    mask = BlockMask.from_dense(keep, block_q=BLOCK, block_kv=BLOCK)
    _, steps, plan = visits(mask, 1, 1)
    assert (plan.num_groups, plan.step, plan.lead, plan.lead_step) == (2, 2, 2, 8)
    assert steps == 2 * 2 + extra  # (96 - 4) / 8 steps of the lead alone, rounded up
