import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sparsevdit_jax import Attended, AttentionPattern, Phase, StepContext, VideoGrid
from sparsevdit_jax.modules import SparseSelfAttention
from sparsevdit_jax.patterns import AdaSpa, Dense, SlidingTile

GRID = VideoGrid(2, 4, 4)


def test_full_window_equals_dense_and_the_module_holds_no_state():
    layer = SparseSelfAttention(16, 2, rngs=nnx.Rngs(0))
    before = jax.tree.map(jnp.copy, nnx.state(layer))
    x = jax.random.normal(jax.random.key(0), (2, 32, 16))
    dense, sparse = (
        jax.jit(lambda layer, x, p=p: layer(x, p, (), StepContext(GRID))[0])(layer, x)
        for p in (Dense(), SlidingTile((2, 2, 2), (1, 2, 2)))
    )
    assert dense.shape == x.shape
    np.testing.assert_allclose(sparse, dense, rtol=1e-4, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, nnx.state(layer), before)


def test_state_is_threaded_under_jit():
    layer = SparseSelfAttention(16, 2, qk_norm=False, use_bias=False, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (1, 32, 16))
    pattern = AdaSpa(0.5, 8)
    state = pattern.init(GRID, batch=1, num_heads=2, head_dim=8)

    @jax.jit
    def step(layer, x, state, ctx):
        return layer(x, pattern, state, ctx)

    _, state = step(layer, x, state, StepContext(GRID, Phase.FIRST_SEARCH))
    assert (state.mask.kv_counts < state.mask.num_kv_blocks).any()


def test_rope_turns_q_and_k_only():
    layer = SparseSelfAttention(16, 2, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (1, 32, 16))
    ctx, seen = StepContext(GRID), []

    def rope(x):
        seen.append(x.shape)
        return -x

    attend = jax.jit(
        lambda layer, x, rope: layer(x, Dense(), (), ctx, rope=rope)[0], static_argnums=2
    )
    plain, turned = attend(layer, x, None), attend(layer, x, rope)
    assert seen == [(1, 32, 2, 8)] * 2
    np.testing.assert_allclose(turned, plain, rtol=1e-5, atol=1e-6)


def test_q_and_k_have_norms_of_their_own():
    layer = SparseSelfAttention(16, 2, rngs=nnx.Rngs(0))
    for norm, factor in ((layer.q_norm, 2.0), (layer.k_norm, 3.0)):
        norm.scale.set_value(jnp.full(8, factor))
    seen = []

    class Watch(AttentionPattern):
        def compute(self, q, k, v, state, ctx):
            seen.append((q, k))
            return Attended(v, None, state)

    layer(jax.random.normal(jax.random.key(0), (1, 32, 16)), Watch(), (), StepContext(GRID))
    sizes = [float(jnp.sqrt(jnp.square(x).mean())) for x in seen[0]]
    np.testing.assert_allclose(sizes, [2, 3], rtol=1e-3)


def test_bad_heads():
    with pytest.raises(ValueError, match="dim=16 must be a multiple of num_heads=3"):
        SparseSelfAttention(16, 3, rngs=nnx.Rngs(0))
