"""Patterns in the model. 5 x 5 x 3 tokens: no tile of 2 divides them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsevdit_jax import (
    Attended,
    AttentionPattern,
    Phase,
    SparseAttention,
    StepContext,
    VideoGrid,
)
from sparsevdit_jax.patterns import Dense, SlidingTile
from tests import tolerances
from tests.models import parity
from tests.models.hunyuan_video.tiny_models import roundings, run, small

SHAPE, TILE, WINDOW = (2, 16, 5, 10, 6), (2, 1, 2), (1, 3, 1)
GRID = VideoGrid(5, 5, 3, text_len=7)


@pytest.fixture(scope="module")
def inputs():
    recorded = parity.inputs(parity.arrays("hunyuan_noguid", "a"))  # 3 and 7 text tokens of 7
    return {**recorded, "hidden_states": jax.random.normal(jax.random.key(3), SHAPE)}


@jax.jit(static_argnames="attention")
def run_sparse(model, inputs, states, ctx, *, attention):
    out = model(**inputs, attention=attention, states=states, ctx=ctx)
    return out.sample, out.states


def run_patterns(model, inputs, *patterns, phase=Phase.REUSE):
    attention = SparseAttention(patterns)
    grid = model.grid(SHAPE, 7)
    states = attention.init(grid, batch=2, num_heads=2, head_dim=32)
    return run_sparse(model, inputs, states, StepContext(grid, phase), attention=attention)


@dataclasses.dataclass(frozen=True)
class WindowOfTokens(AttentionPattern):
    """A sliding tile window of odd size written out token by token, and all real text both ways."""

    def compute(self, q, k, v, state, ctx):
        tile, window = np.array(TILE), np.array(WINDOW)
        own = ctx.grid.coordinates() // tile
        tiles = -(-np.array(ctx.grid.shape) // tile)
        centre = np.clip(own, window // 2, tiles - 1 - window // 2)
        near = (np.abs(centre[:, None] - own[None]) <= window // 2).all(-1)
        near = np.pad(near, (0, ctx.grid.text_len), constant_values=True)
        position = np.arange(ctx.grid.num_tokens)
        real = position[None] < ctx.grid.num_video_tokens + ctx.text_lengths[:, None]
        keep = near[None] & real[:, None, :] & real[:, :, None]
        logits = jnp.einsum("bqhd,bkhd->bhqk", q, k) * q.shape[-1] ** -0.5
        weights = jnp.where(keep[:, None], jnp.exp(logits - logits.max(-1, keepdims=True)), 0.0)
        total = weights.sum(-1, keepdims=True)
        weights = weights / jnp.where(total > 0, total, 1.0)
        return Attended(jnp.einsum("bhqk,bkhd->bqhd", weights, v), None, state)


@small
def test_sliding_tile_is_its_window_in_every_layer(model, inputs):
    assert model.grid(SHAPE, 7) == GRID
    sparse, states = run_patterns(model, inputs, *[SlidingTile(TILE, WINDOW)] * 2)
    want, _ = run_patterns(model, inputs, *[WindowOfTokens()] * 2)
    tolerances.assert_rounding_apart(sparse, want, roundings(model, inputs), "windows")
    assert states == ((),) * 2
    assert np.abs(np.asarray(sparse - run(model, inputs))).max() > 0.05


@small
def test_a_window_over_everything_and_the_dense_phase_are_dense(model, inputs):
    dense = run(model, inputs)
    everything, _ = run_patterns(model, inputs, *[SlidingTile(TILE, (3, 5, 2))] * 2)
    n = roundings(model, inputs)
    tolerances.assert_rounding_apart(everything, dense, n, "full windows")
    exact, _ = run_patterns(model, inputs, *[SlidingTile(TILE, WINDOW)] * 2, phase=Phase.DENSE)
    tolerances.assert_rounding_apart(exact, dense, n, "dense phase")


@dataclasses.dataclass(frozen=True)
class Layer(AttentionPattern):
    """Notes when its layer is traced; its state's size is its index, counted from 1."""

    index: int
    traced: list = dataclasses.field(compare=False)

    def init(self, grid, *, batch, num_heads, head_dim):
        return jnp.zeros(self.index + 1)

    def compute(self, q, k, v, state, ctx):
        self.traced.append(self.index)
        return Attended(jnp.zeros_like(q), None, state)


def test_patterns_and_states_keep_the_order_of_the_layers(model):
    inputs = parity.inputs(parity.arrays("hunyuan", "a"))
    traced = []
    attention = SparseAttention(tuple(Layer(i, traced) for i in range(4)))
    grid = model.grid(inputs["hidden_states"].shape, 10)
    states = attention.init(grid, batch=2, num_heads=2, head_dim=32)
    ctx = StepContext(grid, Phase.REUSE)
    out = jax.eval_shape(lambda: model(**inputs, attention=attention, states=states, ctx=ctx))
    assert traced == list(range(model.num_attention_layers)) == [0, 1, 2, 3]
    assert [state.shape for state in out.states] == [(1,), (2,), (3,), (4,)]
    assert out.sample.shape == inputs["hidden_states"].shape


@small
def test_attention_for_another_grid_or_depth_is_refused(model, inputs):
    attention = SparseAttention.uniform(Dense(), 2)
    other = StepContext(VideoGrid(5, 5, 3, text_len=256), Phase.REUSE)
    with pytest.raises(ValueError, match=r"take model\.grid"):
        jax.eval_shape(lambda: model(**inputs, attention=attention, states=((),) * 2, ctx=other))
    with pytest.raises(ValueError, match="for 3 layers, but the model's layer count is 2"):
        run_patterns(model, inputs, *[Dense()] * 3)
