import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import dense_attention
from sparsevdit_jax import KernelOptions, Phase, StepContext, VideoGrid
from sparsevdit_jax.ops import attend_across, attention_mass
from sparsevdit_jax.token_order import TokenOrder
from tests.tolerances import exact_attention


@pytest.mark.parametrize("tile", [None, (2, 2, 2)], ids=["raster", "tiles"])
@pytest.mark.parametrize("text_first", [False, True])
def test_mass_is_the_sum_of_probabilities(tile, text_first):
    grid = VideoGrid(3, 4, 5, text_len=6, text_first=text_first)
    text_lengths = np.array([6, 2], np.int32)
    ctx = StepContext(
        grid, Phase.SEARCH, text_lengths=jnp.asarray(text_lengths), kernel=KernelOptions(scale=0.7)
    )
    order = TokenOrder(grid, 8, tile=tile)
    q, k = np.random.default_rng(0).standard_normal((2, 2, grid.num_tokens, 2, 4), np.float32)
    text_start = 0 if text_first else grid.num_video_tokens
    place = np.arange(grid.num_tokens) - text_start
    real = (place < 0) | (place >= grid.text_len) | (place < text_lengths[:, None])
    keep = real[:, None, :, None] & real[:, None, None, :]
    zeros = np.zeros(q.shape), np.zeros((2, 2, grid.num_tokens))
    _, lse, *_ = exact_attention(q, k, k, keep, 0.7, *zeros)
    logits = 0.7 * np.einsum("bqhd,bkhd->bhqk", q.astype(float), k)
    with np.errstate(invalid="ignore"):
        p = np.where(keep, np.exp(np.where(keep, logits - lse[..., None], 0)), 0)
    block = np.empty(grid.num_tokens, int)  # the block of each token, found by moving its number
    numbers = jnp.arange(grid.num_tokens, dtype=jnp.int32)[None, :, None, None] + 1
    for place, number in enumerate(np.asarray(order.apply(numbers)).reshape(-1)):
        if number:
            block[number - 1] = place // order.block
    owner = np.eye(order.num_blocks)[block]
    exact = np.einsum("qi,bhqk,kj->bhij", owner, p, owner)
    got = jax.jit(attention_mass, static_argnames="order")(
        jnp.asarray(q), jnp.asarray(k), jnp.asarray(lse, jnp.float32), order=order, ctx=ctx
    )
    np.testing.assert_allclose(got, exact, rtol=2e-5, atol=1e-6)


def test_attention_to_another_sequence_is_dense():
    q, (k, v) = jnp.ones((2, 6, 3, 4)), jax.random.normal(jax.random.key(0), (2, 2, 5, 3, 4))
    np.testing.assert_array_equal(attend_across(q, k, v), dense_attention(q, k, v)[0])
