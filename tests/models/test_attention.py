"""What a layer attends by."""

import jax
import numpy as np

from models.attention import LayerAttention
from sparsevdit_jax import Phase, StepContext, VideoGrid
from sparsevdit_jax.patterns import AdaSpa

GRID = VideoGrid(2, 4, 4)


def test_a_layer_attends_as_its_pattern_does(key):
    pattern, ctx = AdaSpa(0.5, 8), StepContext(GRID, Phase.SEARCH)
    state = pattern.init(GRID, batch=1, num_heads=2, head_dim=8)
    q, k, v = jax.random.normal(key, (3, 1, GRID.num_tokens, 2, 8))
    attended = jax.jit(lambda layer, *qkv: layer.attend(*qkv))(
        LayerAttention(pattern, state, ctx), q, k, v
    )
    want, after = jax.jit(pattern.attend)(q, k, v, state, ctx)
    np.testing.assert_array_equal(attended.out, want)
    jax.tree.map(np.testing.assert_array_equal, attended.state, after)
    assert bool(attended.state.searched)
    assert attended.side is None
