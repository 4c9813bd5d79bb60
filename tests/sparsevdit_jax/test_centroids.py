import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsevdit_jax import StepContext, VideoGrid, centroids, parallel
from sparsevdit_jax.centroids import attend_centroids, attend_left_out, block_means, block_sizes
from sparsevdit_jax.merge import merge_by_lse
from tests.conformance.compensated_suite import compensated
from tests.toy_patterns import TwoOrders

RNG = np.random.default_rng(0)
SIZES = np.array([[[3, 0, 1, 700, 5]], [[1, 1, 1, 1, 0]]], np.int32)
BLOCK = 4


def arrays(length=11, count=5):
    q = RNG.standard_normal((2, length, 3, 8)).astype(np.float32)
    k, v = RNG.standard_normal((2, 2, count, 3, 8)).astype(np.float32)
    left_out = RNG.random((2, 3, -(-length // BLOCK), count)) < 0.6
    left_out[0, 1, 1] = False
    return q, k, v, left_out


def truth(q, k, v, left_out, sizes, epsilon, xp=np):
    """(out, lse), every query by itself."""
    logits = xp.einsum("bqhd,bnhd->bhqn", q, k) * q.shape[-1] ** -0.5
    logits = logits + np.log(np.maximum(sizes, 1) + epsilon)[:, :, None].astype(np.float32)
    counted = np.repeat(left_out, BLOCK, 2)[:, :, : q.shape[1]] & (sizes > 0)[:, :, None]
    weights = xp.where(counted, xp.exp(logits), 0)
    total = weights.sum(-1, keepdims=True)
    some = total > 0
    out = xp.einsum("bhqn,bnhd->bqhd", weights / xp.where(some, total, 1), v)
    return out, xp.where(some, xp.log(xp.where(some, total, 1)), -np.inf)[..., 0]


@pytest.mark.parametrize("logits", [2**22, BLOCK * 5 * 2], ids=["all", "two"])
def test_chunks_of_any_size_give_the_softmax_and_its_gradients(monkeypatch, logits):
    monkeypatch.setattr(centroids, "_LOGITS", logits)
    q, k, v, left_out = arrays()
    weight = RNG.standard_normal(q.shape).astype(np.float32)

    def ours(q, k, v):
        return attend_centroids(q, k, v, SIZES, left_out, block_q=BLOCK, epsilon=0.1)

    def loss(of, q, k, v):
        out, lse = of(q, k, v)
        return (out * weight).sum() + jnp.where(jnp.isfinite(lse), lse, 0).sum()

    want = truth(q, k, v, left_out, SIZES, 0.1)
    for got, expected in zip(jax.jit(ours)(q, k, v), want, strict=True):
        np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)

    def plain(q, k, v):
        return truth(q, k, v, left_out, SIZES, 0.1, jnp)

    got, expected = (
        jax.jit(jax.grad(lambda *x, of=of: loss(of, *x), (0, 1, 2)))(q, k, v)
        for of in (ours, plain)
    )
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_no_array_has_queries_times_centroids():
    q = jax.ShapeDtypeStruct((1, 16_384, 8, 16), jnp.bfloat16)
    k = jax.ShapeDtypeStruct((1, 256, 8, 16), jnp.bfloat16)
    left_out = jax.ShapeDtypeStruct((1, 8, 256, 256), bool)

    def loss(q, k, v, left_out):
        sizes = np.full((1, 1, 256), 64, np.int32)
        return attend_centroids(q, k, v, sizes, left_out, block_q=64)[0].sum()

    compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(q, k, k, left_out).compile()
    whole = 16_384 * 256 * 8 * 4
    assert compiled.memory_analysis().temp_size_in_bytes < whole


def test_blocks_without_real_tokens_have_mean_zero_and_no_size():
    x = RNG.standard_normal((2, 11, 3, 8)).astype(np.float32)
    real = np.ones((2, 1, 11), bool)
    real[0, :, 2:4] = real[1, :, 4:8] = False
    x[1, 5] = np.nan
    sizes = block_sizes(real, 11, BLOCK)
    np.testing.assert_array_equal(sizes, [[[2, 4, 3]], [[4, 0, 3]]])
    np.testing.assert_array_equal(block_sizes(None, 11, BLOCK), [[[4, 4, 3]]])
    means = block_means(jnp.asarray(x), real, BLOCK)
    np.testing.assert_allclose(means[0, 0], x[0, :2].mean(0), rtol=1e-6)
    np.testing.assert_allclose(means[1, 2], x[1, 8:].mean(0), rtol=1e-6)
    assert not np.any(means[1, 1])


def test_queries_and_keys_in_orders_of_their_own_and_blocks_of_other_sizes():
    grid, pattern = VideoGrid(1, 5, 10), TwoOrders(16, BLOCK, 2)
    ctx = StepContext(grid)
    q, k, v = jax.random.normal(jax.random.key(0), (3, 2, grid.num_tokens, 3, 8))

    @jax.jit
    def run(q, k, v):
        plan, _ = pattern.plan(q, k, (), ctx)
        rest = attend_left_out(q, k, v, plan.mask, plan.q_order, plan.kv_order, ctx)
        return merge_by_lse([plan.attend(q, k, v, ctx), rest]), plan.mask.to_dense()

    got, keep = run(q, k, v)
    block_of = tuple(
        np.argsort(np.argsort(x[..., 0], axis=1), axis=1).swapaxes(1, 2) // size
        for x, size in ((q, 16), (k, BLOCK))
    )
    want = compensated(q, k, v, np.asarray(keep), block_of, np.ones(q.shape[:2], bool))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


def test_misfits_are_refused():
    q, k, v, left_out = arrays()
    with pytest.raises(ValueError, match=r"need \[B\|1, H\|1, 3, 5\]"):
        attend_centroids(q, k, v, SIZES, left_out[:, :, :2], block_q=BLOCK)


def test_tokens_on_several_devices_are_refused(monkeypatch):
    monkeypatch.setattr(centroids, "current", lambda: parallel.mesh.Shards(1, 2))
    grid = VideoGrid(1, 5, 10)
    ctx, q = StepContext(grid), jnp.ones((1, 50, 1, 8))
    plan, _ = TwoOrders().plan(q, q, (), ctx)
    with pytest.raises(ValueError, match=r"1 heads leave .* axis seq 1 or smaller"):
        attend_left_out(q, q, q, plan.mask, plan.q_order, plan.kv_order, ctx)
