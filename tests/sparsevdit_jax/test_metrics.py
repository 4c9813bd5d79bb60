import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsevdit_jax import Phase, StepContext, TokenOrder, VideoGrid, metrics
from sparsevdit_jax.patterns import Dense, Diagonal, PerHead, Skip, SlidingTile, Table
from sparsevdit_jax.token_order import slot_positions
from tests.sparsevdit_jax import oracles
from tests.sparsevdit_jax.patterns.test_adaspa import block_masses
from tests.sparsevdit_jax.patterns.test_per_head import Mean

GRID = VideoGrid(3, 4, 5, 6)
TEXT = np.array([2, 6], np.int32)
CTX = StepContext(GRID, Phase.REUSE, text_lengths=TEXT)


def inputs():
    return jax.random.normal(jax.random.key(2), (3, 2, GRID.num_tokens, 2, 8))


def test_density_of_composites():
    grid = VideoGrid(4, 8, 8)
    half = metrics.density(Diagonal(0.5, 32), grid, num_heads=1)[0]
    assert half == 0.5
    merged = PerHead.of([Skip(), Diagonal(0.5, 32), Dense()])
    np.testing.assert_array_equal(metrics.density(merged, grid, num_heads=3), [0, 0.5, 1])
    table = Table((Skip(), Diagonal(0.5, 32), Dense()), ((0, 1), (2, 1)))
    np.testing.assert_array_equal(metrics.density(table, grid, num_heads=2, step=1), [1, 0.5])
    with pytest.raises(ValueError, match="chooses no blocks, so it has no plan and no density"):
        metrics.density(Mean(), grid, num_heads=1)


def test_recall_is_the_kept_mass():
    q, k, v = inputs()
    pattern = SlidingTile((2, 2, 2), (1, 1, 3))
    measured = jax.jit(metrics.measure, static_argnames="pattern")(
        q, k, v, (), CTX, pattern=pattern
    )
    real = oracles.real_tokens(GRID, TEXT, 2)
    order = pattern.token_order(GRID)
    keep = pattern.keep_blocks(GRID, 2)[0]
    block_of = slot_positions(order) // order.block
    keep = keep[block_of][:, block_of]
    p = oracles.probabilities(q, k, real)
    expected = (p * keep).sum((2, 3)) / real.sum(1)[:, None]
    np.testing.assert_allclose(measured["recall"], expected, rtol=1e-5)
    keep = keep & real[:, None, :, None] & real[:, None, None, :]
    exact = oracles.masked_attention(q, k, v, real[:, None, :, None] & real[:, None, None, :])[0]
    error = oracles.masked_attention(q, k, v, keep)[0] - exact
    norm = np.sqrt(np.square(error).sum((1, 3)) / np.square(exact).sum((1, 3)))
    np.testing.assert_allclose(measured["error"], norm, rtol=1e-4)


def test_recall_of_nothing_and_everything():
    lse = jnp.asarray([[[0.5, 2.0, -jnp.inf]]])
    np.testing.assert_allclose(metrics.recall(lse, lse), 1)
    np.testing.assert_array_equal(metrics.recall(jnp.full_like(lse, -jnp.inf), lse), 0)
    half = lse + np.float32(np.log(0.5))
    np.testing.assert_allclose(metrics.recall(half, lse), 0.5, rtol=1e-6)


def test_mask_recall_agrees_with_recall():
    q, k, v = inputs()
    pattern = Diagonal(0.5, 8)
    masses, _, _ = block_masses(np.asarray(q), np.asarray(k), GRID, TEXT)
    mask = pattern.block_mask(GRID, 2, TEXT)
    measured = jax.jit(metrics.measure, static_argnames="pattern")(
        q, k, v, (), CTX, pattern=pattern
    )
    got = metrics.mask_recall(jnp.asarray(masses, np.float32), mask)
    np.testing.assert_allclose(got, measured["recall"], rtol=1e-5)


@pytest.mark.parametrize("text_first", [False, True])
def test_attention_map(text_first):
    grid = VideoGrid(3, 4, 5, 6, text_first)
    q, k, _ = inputs()
    measure = jax.jit(metrics.attention_map, static_argnames="order")
    got = measure(q, k, StepContext(grid, text_lengths=TEXT), order=TokenOrder(grid, 8))
    masses, _, _ = block_masses(np.asarray(q), np.asarray(k), grid, TEXT)
    total = masses.sum(-1, keepdims=True)
    np.testing.assert_allclose(got, masses / total, rtol=1e-4, atol=1e-6)


def test_output_error():
    exact = jnp.ones((1, 3, 2, 4))
    out = exact.at[:, :, 1].set(0.0)
    np.testing.assert_array_equal(metrics.output_error(out, exact), [[0, 1]])


def test_psnr():
    a = jnp.zeros((2, 4, 4, 1))
    assert metrics.psnr(a + 0.1, a) == pytest.approx(20, rel=1e-5)
    assert metrics.psnr(a + 1.0, a, data_range=10.0) == pytest.approx(20, rel=1e-5)
    assert metrics.psnr(a, a) == np.inf


def ssim_by_loops(a, b, data_range, window, sigma):
    x = np.arange(window) - window // 2
    g = np.exp(-(x[:, None] ** 2 + x[None] ** 2) / (2 * sigma**2))
    g /= g.sum()
    values = []
    for i in range(a.shape[0] - window + 1):
        for j in range(a.shape[1] - window + 1):
            p, q = (z[i : i + window, j : j + window].astype(np.float64) for z in (a, b))
            mp, mq = (g * p).sum(), (g * q).sum()
            vp, vq = (g * (p - mp) ** 2).sum(), (g * (q - mq) ** 2).sum()
            cov = (g * (p - mp) * (q - mq)).sum()
            c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
            luminance = (2 * mp * mq + c1) / (mp**2 + mq**2 + c1)
            values.append(luminance * (2 * cov + c2) / (vp + vq + c2))
    return np.mean(values)


def test_ssim():
    rng = np.random.default_rng(0)
    a = rng.random((2, 14, 16, 2)).astype(np.float32)
    b = np.clip(a + 0.2 * rng.standard_normal(a.shape), 0, 1).astype(np.float32)
    expected = np.mean(
        [ssim_by_loops(a[f, ..., c], b[f, ..., c], 1.0, 11, 1.5) for f in (0, 1) for c in (0, 1)]
    )
    assert metrics.ssim(a, b) == pytest.approx(expected, abs=1e-5)
    assert metrics.ssim(a, a) == pytest.approx(1, abs=1e-6)
    scaled = metrics.ssim(a * 255, b * 255, data_range=255.0)
    assert scaled == pytest.approx(expected, abs=1e-4)


def test_bad_frames():
    a = jnp.zeros((4, 8, 8, 1))
    with pytest.raises(ValueError, match="choose a smaller window"):
        metrics.ssim(a, a)
    with pytest.raises(ValueError, match="must have one shape; compare equal clips"):
        metrics.psnr(a, a[:2])
    for value in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match=r"data_range=.* must be positive and finite"):
            metrics.psnr(a, a, data_range=value)
        with pytest.raises(ValueError, match=r"sigma=.* must be a positive number of pixels"):
            metrics.ssim(a, a, window=7, sigma=value)
    for value in (7.0, True, 0):
        with pytest.raises(ValueError, match=r"window=.* must be a whole number of at least 1"):
            metrics.ssim(a, a, window=value)


def test_device_imbalance_of_heads_that_keep_different_shares():
    grid = VideoGrid(4, 4, 4)
    wide, narrow = SlidingTile((2, 2, 2), (2, 2, 2)), SlidingTile((2, 2, 2), (1, 1, 1))
    pattern = PerHead.of((wide, wide, narrow, narrow))
    assigned, numbered = metrics.device_imbalance(pattern, grid, num_heads=4, devices=2)
    assert assigned == 1
    each = metrics.density(pattern, grid, num_heads=4)
    assert numbered == pytest.approx(2 * each[0] / each.mean() / 2)
    assert metrics.device_imbalance(wide, grid, num_heads=4, devices=4) == (1, 1)
