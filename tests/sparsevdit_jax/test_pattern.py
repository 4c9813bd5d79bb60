import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import BlockMask
from sparsevdit_jax import (
    KernelOptions,
    Phase,
    StepContext,
    TokenOrder,
    VideoGrid,
    sparse_attention,
)
from sparsevdit_jax.pattern import AttentionPattern, AttentionPlan, StaticPattern
from sparsevdit_jax.patterns import AdaSpa, Diagonal, PerHead, SlidingTile, Table
from tests.attending import attended, jitted
from tests.sparsevdit_jax import oracles


@dataclasses.dataclass(frozen=True)
class Own(StaticPattern):
    """A pattern that a user writes: two methods."""

    size: int

    def token_order(self, grid):
        return TokenOrder(grid, 8)

    def keep_blocks(self, grid, num_heads):
        return np.eye(self.size, dtype=bool)[None]


GRID = VideoGrid(2, 4, 4)


def test_a_static_pattern_is_two_methods():
    qkv = jax.random.normal(jax.random.key(0), (3, 1, 32, 2, 4))
    out = sparse_attention(*qkv, grid=GRID, pattern=Own(4))
    alone = sparse_attention(*qkv[:, :, 8:16], grid=VideoGrid(1, 2, 4), pattern=Own(1))
    np.testing.assert_allclose(out[:, 8:16], alone, rtol=1e-5, atol=1e-6)


@dataclasses.dataclass(frozen=True)
class PerCall(AttentionPattern):
    """A selector that a user writes: blocks chosen at every call, in raster order as it is."""

    def init(self, grid, *, batch, num_heads, head_dim):
        return jnp.zeros((), np.int32)

    def plan(self, q, k, state, ctx):
        score = q.reshape(1, 4, 8, 2, 4).mean((0, 2, 3, 4))
        keep = (score[:, None] >= score[None, :]) | jnp.eye(4, dtype=bool)
        return AttentionPlan(BlockMask.from_dense(keep, block_q=8, block_kv=8)), state

    def update(self, q, k, lse, state, ctx):
        return state + 1


def test_a_selector_is_a_plan_and_an_update():
    q, k, v = jax.random.normal(jax.random.key(0), (3, 1, 32, 2, 4))
    ctx = StepContext(GRID)
    out, _, state = jitted(PerCall())(q, k, v, 0, ctx)
    score = np.asarray(q).reshape(1, 4, 8, 2, 4).mean((0, 2, 3, 4))
    keep = (score[:, None] >= score[None, :]) | np.eye(4, dtype=bool)
    expected, _ = oracles.masked_attention(q, k, v, keep.repeat(8, 0).repeat(8, 1))
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
    assert int(state) == 1
    merged = PerHead(((PerCall(), (0, 1)),))
    again, *_ = jitted(merged)(q, k, v, (jnp.zeros((), np.int32),), ctx)
    np.testing.assert_array_equal(again, out)
    with pytest.raises(ValueError, match="depends on more than positions"):
        Table((PerCall(),), ((0,),)).init(GRID, batch=1, num_heads=1, head_dim=4)


def test_keep_blocks_of_the_wrong_shape():
    with pytest.raises(
        ValueError, match=r"Own.keep_blocks gave \(1, 5, 5\) for 2 heads; .* 4, 4\]"
    ):
        Own(5).init(GRID, batch=1, num_heads=2, head_dim=4)


def test_masks_are_built_once():
    sta = SlidingTile((1, 2, 2), (1, 1, 1))
    one, two = (sta.block_mask(GRID, 2) for _ in range(2))
    assert one.kv_indices is two.kv_indices


def attend(q, k, v, **ctx):
    return attended(Diagonal(0.5, 8), q, k, v, (), StepContext(GRID, Phase.REUSE, **ctx))


def test_bad_inputs():
    x = jnp.zeros((2, 32, 2, 4))
    with pytest.raises(ValueError, match=r"k is float32 \(2, 32, 3, 4\) and q is float32"):
        attend(x, jnp.zeros((2, 32, 3, 4)), x)
    with pytest.raises(ValueError, match=r"v is bfloat16 .* of one shape and dtype"):
        attend(x, x, x.astype(jnp.bfloat16))
    with pytest.raises(ValueError, match=r"q has 31 tokens, but VideoGrid.* has 32"):
        attend(*[x[:, :31]] * 3)
    with pytest.raises(ValueError, match="text_lengths has 3 entries, but q has 2 batch rows"):
        attend(x, x, x, text_lengths=np.zeros(3, np.int32))
    with pytest.raises(ValueError, match="implementation"):
        attend(x, x, x, kernel=KernelOptions("warp"))


def test_attend_under_vmap_remat_and_scan():
    qkv = jax.random.normal(jax.random.key(0), (2, 3, 1, 32, 2, 4))
    pattern, ada, ctx = Diagonal(0.5, 8), AdaSpa(0.5, 8), StepContext(GRID, Phase.FIRST_SEARCH)

    @jax.checkpoint
    def one(qkv):
        return attended(pattern, *qkv, (), ctx)[0]

    separate = jnp.stack([jax.jit(one)(x) for x in qkv])
    np.testing.assert_allclose(jax.jit(jax.vmap(one))(qkv), separate, rtol=1e-5, atol=1e-6)
    assert np.isfinite(jax.jit(jax.grad(lambda x: one(x).sum()))(qkv[0])).all()

    @jax.jit
    def step(state, x):
        out, _, state = attended(ada, *x, state, ctx)
        return state, out

    state = ada.init(GRID, batch=1, num_heads=2, head_dim=4)
    end, outs = jax.jit(lambda s: jax.lax.scan(step, s, qkv))(state)
    for x, out in zip(qkv, outs, strict=True):
        state, expected = step(state, x)
        np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(end.mask.to_dense(), state.mask.to_dense())
