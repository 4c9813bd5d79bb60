"""Patterns that the library has never seen go through everything; what needs devices is in
parallel/on_eight_devices/check_engine.py."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsevdit_jax import (
    Phase,
    SparseAttention,
    StepContext,
    StepSchedule,
    VideoGrid,
    attend,
    metrics,
    sparse_attention,
)
from sparsevdit_jax.distill import layer_outputs, record
from sparsevdit_jax.patterns import AdaSpa, Dense, Diagonal, PerHead, Skip, Table
from sparsevdit_jax.search.probe import Probe
from tests.attending import attended, jitted, jitted_anew
from tests.conformance.pattern_suite import BATCH, HEADS, PatternSuite
from tests.sparsevdit_jax import oracles
from tests.sparsevdit_jax.patterns.test_diagonal import TestDiagonal as _Diagonal
from tests.toy_patterns import TopK, TwoOrders, WithMean

GRID = VideoGrid(4, 4, 4)


def inputs(heads=2, batch=2, grid=GRID, count=3):
    return jax.random.normal(jax.random.key(1), (count, batch, grid.num_tokens, heads, 8))


class TestTopK(PatternSuite):
    pattern = TopK(0.5)

    def keep_tokens(self, case):
        grid, block = case.grid, self.pattern.block
        real = oracles.real_tokens(grid, case.text_lengths, BATCH)
        is_text = oracles.text_tokens(grid)
        block_of = np.zeros(grid.num_tokens, int)
        block_of[~is_text] = oracles.frame_major_blocks(grid, block)
        video = block_of.max() + 1
        member = np.eye(video)[block_of] * ~is_text[:, None]
        q, k = (
            np.einsum("blhd,ln->bhnd", np.asarray(x, np.float64), member) / member.sum(0)[:, None]
            for x in case.qkv[:2]
        )
        scores = q @ k.swapaxes(-1, -2)
        count = int(0.5 * video + 0.5)
        best = np.argsort(-scores, axis=-1, kind="stable")[..., :count]
        keep = np.zeros(scores.shape, bool)
        np.put_along_axis(keep, best, True, axis=-1)
        keep = keep[:, :, block_of][..., block_of]
        keep[:, :, is_text] = keep[..., is_text] = True
        return keep & real[:, None, :, None] & real[:, None, None, :]

    def test_counted_density_is_that_of_the_truth(self, case, reuse):
        # Which blocks it keeps depends on q and k, and the last one of a ragged grid is smaller.
        if case.text_lengths is not None:
            return
        super().test_counted_density_is_that_of_the_truth(case, reuse)


def test_a_new_pattern_joins_heads_of_others_with_the_bits_of_each_alone():
    mixed = PerHead(((TopK(), (0, 2)), (Diagonal(0.4, 8), (1,)), (Dense(), (3,))))
    qkv, ctx = inputs(4), StepContext(GRID)
    state = mixed.init(GRID, batch=2, num_heads=4, head_dim=8)
    out, lse, _ = jitted(mixed)(*qkv, state, ctx)
    for member, heads in mixed.groups:
        at = np.asarray(heads)
        alone, alone_lse, _ = jitted(member)(*qkv[:, :, :, at], (), ctx)
        np.testing.assert_array_equal(out[:, :, at], alone)
        np.testing.assert_array_equal(lse[:, at], alone_lse)
    kept = metrics.density(mixed, GRID, num_heads=4)
    np.testing.assert_allclose(kept[[0, 2, 3]], [0.25, 0.25, 1])


def test_a_new_pattern_can_be_probed_and_recorded_but_not_tabled():
    qkv, ctx = inputs(), StepContext(GRID)
    probe = Probe((TopK(), Skip()))
    _, _, state = jitted(probe)(*qkv, probe.init(GRID, batch=2, num_heads=2, head_dim=8), ctx)
    out, *_ = jitted(TopK())(*qkv, (), ctx)
    exact, *_ = jitted(Dense())(*qkv, (), ctx)
    np.testing.assert_allclose(state.error[..., 0], np.square(out - exact).mean((1, 3)), rtol=1e-4)
    mixed = PerHead(((Diagonal(0.4, 8), (1,)), (TopK(), (0,))))
    (pattern,) = record(SparseAttention((mixed,))).patterns
    for phase in (Phase.REUSE, Phase.DENSE):
        state = pattern.init(GRID, batch=2, num_heads=2, head_dim=8)
        out, _, state = jitted(pattern)(*qkv, state, StepContext(GRID, phase))
        np.testing.assert_array_equal(layer_outputs([state])[0], out)
    with pytest.raises(ValueError, match=r"TopK.* depends on more than positions; .* use PerHead"):
        Table((TopK(),), ((0,),))


def test_one_call_gives_its_output_and_lse():
    q, k, v = inputs()
    out, lse = sparse_attention(q, k, v, grid=GRID, pattern=TopK(), return_lse=True)
    expected, expected_lse, _ = jitted(TopK())(q, k, v, (), StepContext(GRID))
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(lse, expected_lse)


DENSITIES = (1.0, 0.5, 0.25, 1.0, 0.125, 0.5)


def test_a_density_for_each_step_needs_one_program_and_is_that_of_each_step():
    schedule = StepSchedule(6, density=DENSITIES)
    attention = SparseAttention.uniform(TopK(0.9), 1, schedule)
    assert [p is Phase.DENSE for p in schedule.phases()] == [True, False, False, True, False, False]
    qkv, step = inputs(), jitted_anew(TopK(0.9))
    for i, density in enumerate(DENSITIES):
        out, *_ = step(*qkv, (), attention.context(i, GRID))
        alone = Dense() if density == 1 else TopK(density)
        expected, *_ = jitted(alone)(*qkv, (), StepContext(GRID))
        np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)
    assert step._cache_size() == 2  # dense, and all others


@pytest.mark.parametrize("head_adaptive", [False, True])
def test_searches_take_the_density_of_their_step(head_adaptive):
    pattern = AdaSpa(0.2, 8, head_adaptive=head_adaptive)
    schedule = StepSchedule(6, 1, (1, 3), density=(1.0, 0.25, 0.25, 0.75, 0.75, 0.75))
    attention = SparseAttention.uniform(pattern, 1, schedule)
    (state,) = attention.init(GRID, batch=2, num_heads=4, head_dim=8)
    qkv, step, kept = inputs(4), jitted_anew(pattern), []
    for i in range(6):
        *_, state = step(*qkv, state, attention.context(i, GRID))
        kept.append(float(metrics.density(pattern, GRID, num_heads=4, state=state).mean()))
    np.testing.assert_allclose(kept, [1, 0.25, 0.25, 0.75, 0.75, 0.75])
    assert step._cache_size() == 4
    # A search under a traced density keeps what one with that density keeps.
    fixed = dataclasses.replace(pattern, density=0.25)
    state = fixed.init(GRID, batch=2, num_heads=4, head_dim=8)
    *_, state = jitted(fixed)(*qkv, state, StepContext(GRID, Phase.FIRST_SEARCH))
    (other,) = attention.init(GRID, batch=2, num_heads=4, head_dim=8)
    *_, other = step(*qkv, other, attention.context(1, GRID))
    np.testing.assert_array_equal(other.mask.to_dense(), state.mask.to_dense())


def test_densities_that_nothing_follows_are_refused():
    schedule = StepSchedule(6, density=DENSITIES)
    with pytest.raises(ValueError, match="no pattern here has a budget that can follow it"):
        SparseAttention.uniform(Diagonal(), 2, schedule)
    attention = SparseAttention((Dense(), PerHead.of([TopK(), Diagonal(0.4, 8)])), schedule)
    assert SparseAttention.from_json(attention.to_json()) == attention
    for kwargs, match in (
        ({"density": (0.5,)}, "density has 1 entries, but the schedule has 2 steps"),
        ({"density": (0.5, 0.0)}, r"density=0.0 must lie in \(0, 1\]"),
        ({"density": (1.0, 0.5), "search_steps": (0,)}, r"search_steps \[0\] have density 1"),
    ):
        with pytest.raises(ValueError, match=match):
            StepSchedule(2, **kwargs)


def keep_of_two_orders(pattern, q, k):
    """Bool [B, H, L, L] of `TwoOrders`, token by token."""
    length = q.shape[1]
    ranks = (np.argsort(np.argsort(np.asarray(x)[..., 0], 1), 1).swapaxes(1, 2) for x in (q, k))
    row, column = (r // b for r, b in zip(ranks, (pattern.block_q, pattern.block_kv), strict=True))
    rows, columns = -(-length // pattern.block_q), -(-length // pattern.block_kv)
    return np.abs(row[..., None] * columns / rows - column[..., None, :]) <= pattern.width


@pytest.mark.parametrize("pattern", [TwoOrders(), TwoOrders(8, 24, 1)])
def test_queries_and_keys_have_orders_of_their_own_in_every_head_and_row(pattern):
    grid = VideoGrid(3, 5, 5)  # 75 tokens: both orders end in a ragged block
    q, k, v, d_out = inputs(3, 2, grid, 4)
    ctx = StepContext(grid)
    keep = keep_of_two_orders(pattern, q, k)
    assert 0.1 < keep.mean() < 0.9
    out, lse, _ = jitted(pattern)(q, k, v, (), ctx)
    expected, expected_lse = oracles.masked_attention(q, k, v, keep)
    np.testing.assert_allclose(out, expected, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(lse, expected_lse, rtol=2e-5, atol=2e-5)

    def masked(q, k, v):
        logits = jnp.where(keep, jnp.einsum("bqhd,bkhd->bhqk", q, k) * 8**-0.5, -1e30)
        return (jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(logits), v) * d_out).sum()

    def loss(q, k, v):
        return (attended(pattern, q, k, v, (), ctx)[0] * d_out).sum()

    got, want = (jax.jit(jax.grad(f, (0, 1, 2)))(q, k, v) for f in (loss, masked))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_a_side_branch_comes_back_beside_the_output_in_steps_that_are_not_dense():
    q, k, v = inputs()
    run = jax.jit(functools.partial(attend, WithMean()))
    found, plain = (
        run(q, k, v, (), StepContext(GRID)),
        jitted(TopK())(q, k, v, (), StepContext(GRID)),
    )
    np.testing.assert_array_equal(found.out, plain[0])
    np.testing.assert_allclose(
        found.side, np.broadcast_to(v.mean(1, keepdims=True), v.shape), rtol=1e-5, atol=1e-6
    )
    assert run(q, k, v, (), StepContext(GRID, Phase.DENSE)).side is None
    mixed = PerHead(((WithMean(), (1,)), (Diagonal(0.4, 8), (0,))))
    state = mixed.init(GRID, batch=2, num_heads=2, head_dim=8)
    side = jax.jit(functools.partial(attend, mixed))(q, k, v, state, StepContext(GRID)).side
    assert not np.any(side[:, :, 0])
    np.testing.assert_allclose(side[:, :, 1], found.side[:, :, 1])


class TestDiagonalBesideTopK(_Diagonal):
    """A static pattern keeps its bits where another joins the layer."""

    pattern = PerHead(((Diagonal(0.5, 8), tuple(range(HEADS))),))
