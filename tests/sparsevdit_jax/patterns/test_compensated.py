import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsevdit_jax import Phase, SparseAttention, StepContext, StepSchedule, VideoGrid
from sparsevdit_jax.patterns import (
    AdaSpa,
    Compensated,
    Dense,
    Diagonal,
    MultiDiagonal,
    PerHead,
    Skip,
    SlidingTile,
    Table,
)
from sparsevdit_jax.search.probe import Probe
from sparsevdit_jax.search.rules import SparseVditRule
from tests.attending import attended, jitted
from tests.conformance.compensated_suite import CompensatedSuite, compensated, cut
from tests.sparsevdit_jax import oracles
from tests.toy_patterns import WithMean

TILE = (2, 2, 2)
WINDOWS = (1, 1, 3), (1, 3, 1)
BLOCK = 8


class TestAroundTiles(CompensatedSuite):
    """Ragged tiles, text before and after, windows of heads."""

    pattern = Compensated(SlidingTile(TILE, WINDOWS))

    def keep_blocks(self, case):
        grid = case.grid
        tiles = tuple(-(-n // t) for n, t in zip(grid.shape, TILE, strict=True))
        at = np.stack(np.unravel_index(np.arange(np.prod(tiles)), tiles), -1)
        text = -(-grid.text_len // BLOCK)
        keeps = []
        for window in WINDOWS:
            half, last = np.array(window) // 2, np.array(tiles) - 1
            centre = np.maximum(np.minimum(at, last - half), half)
            near = (np.abs(centre[:, None] - at[None]) <= half).all(-1)
            keeps.append(np.pad(near, ((0, text),) * 2, constant_values=True))
        return np.stack(keeps)[None]

    def block_of(self, grid):
        tiles = tuple(-(-n // t) for n, t in zip(grid.shape, TILE, strict=True))
        block_of = np.zeros(grid.num_tokens, int)
        is_text = oracles.text_tokens(grid)
        block_of[~is_text] = np.ravel_multi_index((grid.coordinates() // TILE).T, tiles)
        block_of[is_text] = np.prod(tiles) + np.arange(grid.text_len) // BLOCK
        return block_of


GRID = VideoGrid(3, 5, 4, 5)
LENGTHS = np.array([2, 5], np.int32)
REAL = oracles.real_tokens(GRID, LENGTHS, 2)


def random_qkv(heads=2, grid=GRID):
    return jax.random.normal(jax.random.key(3), (3, 2, grid.num_tokens, heads, 8))


def ctx(phase=Phase.REUSE):
    return StepContext(GRID, phase, text_lengths=LENGTHS)


def test_around_adaspa_searches_are_its_own_and_the_steps_between_are_compensated():
    inner = AdaSpa(0.3, BLOCK)
    pattern, qkv = Compensated(inner), random_qkv()
    state = pattern.init(GRID, batch=2, num_heads=2, head_dim=8)
    run, alone = jitted(pattern), jitted(inner)
    out, lse, state = run(*qkv, state, ctx(Phase.FIRST_SEARCH))
    fresh = inner.init(GRID, batch=2, num_heads=2, head_dim=8)
    for got, want in zip((out, lse), alone(*qkv, fresh, ctx(Phase.FIRST_SEARCH))[:2], strict=True):
        np.testing.assert_array_equal(got, want)
    block = cut(GRID, BLOCK)
    keep = np.asarray(state.mask.to_dense())
    assert not keep.all()
    out, lse, _ = run(*qkv, state, ctx())
    want, want_lse = compensated(*qkv, keep, (block, block), REAL)
    np.testing.assert_allclose(out, want, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(lse, want_lse, rtol=2e-5, atol=2e-5)
    assert pattern.searches
    assert pattern.takes_density
    assert pattern.with_density(0.7) == Compensated(AdaSpa(0.7, BLOCK))


def test_heads_of_a_mixture_are_what_each_is_by_itself():
    band, sites = Diagonal(0.4, BLOCK), MultiDiagonal(0.4, BLOCK)  # two orders, one launch
    pattern = Compensated(PerHead(((band, (0,)), (AdaSpa(0.4, BLOCK), (1,)), (sites, (2,)))))
    qkv, block = random_qkv(3), np.stack([cut(GRID, BLOCK)] * 3)[None]
    block[:, 2, ~oracles.text_tokens(GRID)] = oracles.site_major_blocks(GRID, BLOCK)
    state = pattern.init(GRID, batch=2, num_heads=3, head_dim=8)
    out, lse, _ = jitted(pattern)(*qkv, state, ctx())
    keep = np.ones((1, 3, *(block.max() + 1,) * 2), bool)  # of AdaSpa before its search
    keep[:, 0], keep[:, 2] = band.keep_blocks(GRID, 1), sites.keep_blocks(GRID, 1)
    assert not keep.all()
    want, want_lse = compensated(*qkv, keep, (block, block), REAL)
    np.testing.assert_allclose(out, want, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(lse, want_lse, rtol=2e-5, atol=2e-5)
    assert pattern.at_step(0, 3)[0] == Compensated(band)
    assert not pattern.serves_any_head
    assert pattern.num_heads == 3


def test_a_table_stays_one_of_its_steps():
    pattern = Compensated(Table((Diagonal(0.4, BLOCK), Dense()), ((1, 1), (0, 1))))
    attention = SparseAttention.uniform(pattern, 2, StepSchedule(2, 1))
    assert SparseAttention.from_json(attention.to_json()) == attention
    with pytest.raises(ValueError, match="step 0 would be sparse, but the Table of layer 0"):
        attention.with_dense(0)


def test_a_head_left_out_attends_to_the_mean_of_all_real_tokens():
    qkv = random_qkv()
    out, lse, _ = jitted(Compensated(Skip()))(*qkv, (), ctx())
    whole = np.zeros(GRID.num_tokens, int)
    want, want_lse = compensated(*qkv, np.zeros((1, 1, 1, 1), bool), (whole, whole), REAL)
    np.testing.assert_allclose(out, want, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(lse, want_lse, rtol=2e-5, atol=2e-5)


def test_half_precision_keeps_its_dtype_and_a_side_branch_stays():
    qkv, pattern = random_qkv().astype(jnp.bfloat16), WithMean(0.3, BLOCK)
    grid = ctx()
    found = jax.eval_shape(lambda x: attended(Compensated(pattern), *x, (), grid), qkv)
    assert found[0].dtype == jnp.bfloat16
    plan, _ = Compensated(pattern).plan(*qkv[:2], (), grid)
    side = Compensated(pattern).side(*qkv, plan, grid)
    np.testing.assert_array_equal(side, pattern.side(*qkv, plan, grid))


def test_what_drops_no_blocks_is_refused():
    probe = Probe((Dense(),), SparseVditRule((1.0,)))
    for member in (probe, PerHead(((probe, (0,)), (Dense(), (1,))))):
        with pytest.raises(ValueError, match="holds Probe, which computes something else"):
            Compensated(member)
    with pytest.raises(ValueError, match="member=3 must be an AttentionPattern"):
        Compensated(3)
