"""Scores against means over real tokens in float64, and what all pooled patterns share."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsevdit_jax import SparseAttention, StepContext, StepSchedule, TokenOrder, VideoGrid
from sparsevdit_jax.patterns import PerHead
from sparsevdit_jax.pooled import PooledPattern, pooled_scores, video_weights
from sparsevdit_jax.selection import top_blocks

GRID = VideoGrid(2, 3, 5, 9, text_first=True)
TEXT = np.array([4, 0], np.int32)


@dataclasses.dataclass(frozen=True)
class Best(PooledPattern):
    density: float | tuple[float, ...] = 0.25

    def token_order(self, grid):
        return TokenOrder(grid, 4)

    def choose(self, q, k, order, ctx):
        return top_blocks(pooled_scores(q, k, order, ctx), self.density, order, ctx)


@pytest.fixture(scope="module")
def qk():
    return jax.random.normal(jax.random.key(3), (2, 2, GRID.num_tokens, 3, 4))


def means(x, order, text, parts):
    """[N * parts, D] of one row and head in float64; nan where there is no real token."""
    size, lengths = order.block // parts, order.lengths(text[None])[0, 0]
    moved = np.asarray(order.apply(x[None, :, None]), np.float64)[0, :, 0]
    found = []
    for block, length in enumerate(lengths):
        for part in range(parts):
            tokens = np.arange(part * size, min((part + 1) * size, length)) + block * order.block
            found.append(moved[tokens].mean(0) if len(tokens) else np.full(x.shape[-1], np.nan))
    return np.stack(found)


@pytest.mark.parametrize("parts", [(1, 1), (2, 4)])
def test_scores_are_log_sum_exps_over_the_means_of_parts(qk, parts):
    order, ctx = TokenOrder(GRID, 4, path="gilbert"), StepContext(GRID, text_lengths=TEXT)
    got = jax.jit(lambda q, k: pooled_scores(q, k, order, ctx, parts=parts))(*qk)
    for row, head in ((0, 0), (1, 2)):
        a, b = (means(x[row, :, head], order, TEXT[row], n) for x, n in zip(qk, parts, strict=True))
        pairs = np.exp((a @ b.T) * 4**-0.5).reshape(order.num_blocks, parts[0], -1, parts[1])
        with np.errstate(divide="ignore"):
            want = np.log(np.nansum(pairs, (1, 3)))
        empty = order.lengths(TEXT[row][None])[0, 0] == 0
        if parts == (1, 1):
            want[empty] = want[:, empty] = 0
        np.testing.assert_allclose(got[row, head], want, rtol=1e-5, atol=1e-6)


def test_rounded_means(qk):
    order, ctx = TokenOrder(GRID, 4), StepContext(GRID)
    got = jax.jit(lambda q, k: pooled_scores(q, k, order, ctx, rounded=True))(*qk)
    factors = (np.float32(0.5 * np.log2(np.e)), np.float32(1))
    cells = [order.pool(x)[0, :, 1] * f for x, f in zip(qk, factors, strict=True)]
    a, b = (np.asarray(x.astype(jnp.bfloat16)).astype(np.float64) for x in cells)
    np.testing.assert_allclose(got[0, 1], a @ b.T / np.log2(np.e), rtol=2e-6, atol=1e-6)


def test_keys_without_their_mean(qk):
    """Of real tokens; a row moves by what its query makes of the mean."""
    order, ctx = TokenOrder(GRID, 4), StepContext(GRID, text_lengths=TEXT)
    q, k = qk
    plain, centred = (pooled_scores(q, k, order, ctx, centred=c) for c in (False, True))
    real = np.r_[:4, 9:39]  # text of the first row, video
    moved = np.einsum("id,d->i", order.pool(q, TEXT)[0, :, 2], k[0, real, 2].mean(0)) / 2
    used = order.lengths(TEXT[:1])[0, 0] > 0
    difference = (plain - centred)[0, 2][np.ix_(used, used)]
    want = np.broadcast_to(moved[used, None], difference.shape)
    np.testing.assert_allclose(difference, want, rtol=1e-4, atol=1e-6)


def test_weights_are_a_softmax_over_video_blocks(qk):
    order = TokenOrder(GRID, 4)
    scores = pooled_scores(*qk, order, StepContext(GRID))
    weights = video_weights(scores, order)
    assert weights.shape == (2, 3, 8, 8)
    exps = np.exp(np.asarray(scores, np.float64)[..., :8, :8])
    np.testing.assert_allclose(weights, exps / exps.sum(-1, keepdims=True), rtol=1e-5)


def test_no_gradient_passes_the_choice(qk):
    def total(qk):
        plan, _ = Best().plan(*qk, (), StepContext(GRID))
        return plan.mask.kv_indices.astype(np.float32).sum()

    assert not np.any(jax.grad(total)(qk))


def test_heads_have_densities_of_their_own(qk):
    pattern = Best((0.125, 0.5, 0.25))
    plan, _ = pattern.plan(*qk, (), StepContext(GRID))
    video = np.asarray(plan.mask.to_dense())[..., :8, :8]
    assert (video.sum(-1) == np.array([1, 4, 2])[:, None]).all()
    for head, alone in enumerate(pattern.at_step(0, 3)):
        one, _ = alone.plan(*(x[:, :, head : head + 1] for x in qk), (), StepContext(GRID))
        np.testing.assert_array_equal(one.mask.to_dense()[:, 0], plan.mask.to_dense()[:, head])
    assert not pattern.serves_any_head
    assert Best().serves_any_head
    assert Best().at_step(0, 3) == (Best(),) * 3
    assert Best().head_work((), StepContext(GRID), 3) is None
    assert pattern.head_work((), StepContext(GRID), 3).tolist() == [0.125, 0.5, 0.25]
    assert PerHead.of(pattern.at_step(0, 3)).at_step(0, 3)[1] == Best(0.5)
    counted = pattern.density_on(VideoGrid(2, 4, 4), 3)
    np.testing.assert_allclose(counted, [0.125, 0.5, 0.25])
    attention = SparseAttention.uniform(pattern, 1, StepSchedule(4, density=(1.0, 0.5, 0.5, 0.25)))
    attention.init(GRID, batch=1, num_heads=3, head_dim=4)


def test_a_layer_of_another_number_of_heads_is_refused():
    for check in (
        lambda: Best((0.5, 0.25)).init(GRID, batch=1, num_heads=3, head_dim=4),
        lambda: Best((0.5, 0.25)).at_step(0, 3),
    ):
        with pytest.raises(ValueError, match="Best has densities for 2 heads, but the layer has 3"):
            check()
