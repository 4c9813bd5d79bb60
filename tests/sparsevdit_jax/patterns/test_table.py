import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import BlockMask
from sparsevdit_jax import Phase, StepContext, TokenOrder, VideoGrid, metrics, ops
from sparsevdit_jax.patterns import (
    AdaSpa,
    Dense,
    Diagonal,
    MultiDiagonal,
    PerHead,
    Skip,
    SlidingTile,
    Table,
    VerticalStripe,
)
from tests import tolerances
from tests.attending import attended, jitted, jitted_anew
from tests.conformance.pattern_suite import PatternSuite
from tests.sparsevdit_jax import oracles
from tests.sparsevdit_jax.patterns.test_diagonal import TestMultiDiagonal as _MultiDiagonal
from tests.sparsevdit_jax.patterns.test_vertical_stripe import TestVerticalStripe as _Stripe


class TestTable(PatternSuite):
    pattern = Table((VerticalStripe(0.75, 8), Skip(), MultiDiagonal(0.5, 8)), ((2, 0), (1, 2)))
    num_steps = 2

    def keep_tokens(self, case):
        parts = [suite.keep_tokens(suite(), case) for suite in (_MultiDiagonal, _Stripe)]
        return np.concatenate(parts, axis=1)


GRID = VideoGrid(4, 4, 6, 9)
LIBRARY = (
    Skip(),
    Diagonal(0.4, 8),
    MultiDiagonal(0.4, 8),
    VerticalStripe(0.6, 8),
    SlidingTile((2, 2, 2), (1, 1, 3)),
)
CHOICE = np.random.default_rng(0).integers(0, len(LIBRARY), (5, 4))


def inputs():
    return jax.random.normal(jax.random.key(1), (3, 2, GRID.num_tokens, 4, 8))


def ctx_at(step):
    return StepContext(GRID, Phase.REUSE, step, np.array([3, 9]))


def test_every_step_equals_the_loop_over_heads_in_one_program_and_one_launch(monkeypatch):
    table, qkv, launches = Table(LIBRARY, CHOICE), inputs(), []
    kernel = ops.block_sparse_attention
    monkeypatch.setattr(
        ops, "block_sparse_attention", lambda *a, **k: launches.append(1) or kernel(*a, **k)
    )
    attend = jitted_anew(table)
    results = [attend(*qkv, (), ctx_at(step)) for step in range(5)]
    assert attend._cache_size() == 1
    assert len(launches) == 1
    monkeypatch.undo()
    loop = {p: jitted(p)(*qkv, (), ctx_at(0)) for p in LIBRARY}
    for (out, lse, _), row in zip(results, CHOICE, strict=True):
        for head, chosen in enumerate(row):
            expected, expected_lse, _ = loop[LIBRARY[chosen]]
            np.testing.assert_array_equal(out[:, :, head], expected[:, :, head])
            np.testing.assert_array_equal(lse[:, head], expected_lse[:, head])


def test_a_concrete_step_gives_the_same_bits_as_a_traced_one():
    table, qkv = Table(LIBRARY, CHOICE), inputs()
    traced = jitted(table)(*qkv, (), ctx_at(3))[0]
    static = jax.jit(lambda qkv: attended(table, *qkv, (), ctx_at(3))[0])(qkv)
    np.testing.assert_array_equal(traced, static)
    merged = PerHead.of([LIBRARY[c] for c in CHOICE[3]])
    state = merged.init(GRID, batch=2, num_heads=4, head_dim=8)
    np.testing.assert_array_equal(jitted(merged)(*qkv, state, ctx_at(0))[0], traced)


def full_rows(order):
    """Attention of every block to every block of `order`, as a program."""
    n, block, ctx = order.num_blocks, order.block, ctx_at(0)
    full = BlockMask.full(n, n, block_q=block, block_kv=block)
    return jax.jit(lambda q, k, v, *_: ops.attend_blocks(q, k, v, full, order, None, ctx))


def test_dense_entries_are_full_rows():
    qkv, ctx, band = inputs(), ctx_at(0), Diagonal(0.4, 8)
    results = jitted(Table((Dense(), band), ((0, 1, 1, 0),)))(*qkv, (), ctx)
    full, diagonal = full_rows(band.token_order(GRID)), jitted(band)
    for head, loop in enumerate((full, diagonal, diagonal, full)):
        out, lse, *_ = loop(*(x[:, :, head : head + 1] for x in qkv), (), ctx)
        np.testing.assert_array_equal(results[0][:, :, head], out[:, :, 0])
        np.testing.assert_array_equal(results[1][:, head], lse[:, 0])
    # `dense_attention` adds in another order, so it and the full rows each round on their own.
    everything = np.ones((1, GRID.num_video_tokens, GRID.num_video_tokens), bool)
    exact = oracles.masked_attention(*qkv, oracles.join_text(everything, GRID, ctx.text_lengths, 2))
    dense = jitted(Dense())(*qkv, (), ctx)
    heads = np.s_[:, :, ::3], np.s_[:, ::3]
    for name, cut, *values in zip(
        ("out", "lse"), heads, results[:2], exact, dense[:2], strict=True
    ):
        tolerances.assert_within_budget(*(x[cut] for x in values), jnp.float32, name)


def test_dense_entries_among_skipped_ones_are_full_rows_of_larger_blocks():
    qkv, ctx = inputs(), ctx_at(0)
    out, lse, _ = jitted(Table((Dense(), Skip()), ((0, 1, 1, 0),)))(*qkv, (), ctx)
    full, full_lse = full_rows(TokenOrder(GRID, 128))(*(x[:, :, ::3] for x in qkv))
    np.testing.assert_array_equal(out[:, :, ::3], full)
    np.testing.assert_array_equal(lse[:, ::3], full_lse)
    assert not np.any(out[:, :, 1:3])
    assert np.isneginf(lse[:, 1:3]).all()


@pytest.mark.parametrize(("step", "row"), [(5, 4), (1000, 4), (-1, 0)])
def test_a_step_outside_the_table_is_refused_and_a_traced_one_uses_its_nearest_row(step, row):
    table, struct = Table(LIBRARY, CHOICE), inputs()
    with pytest.raises(ValueError, match=f"step={step} (lies outside this table|must be a whole)"):
        metrics.density(table, GRID, num_heads=4, step=step)
    counts = jax.jit(lambda ctx: table.plan(*struct[:2], (), ctx)[0].mask.kv_counts)
    np.testing.assert_array_equal(
        counts(ctx_at(jnp.asarray(step, np.int32))), counts(ctx_at(jnp.asarray(row, np.int32)))
    )


@pytest.mark.parametrize(
    ("library", "choice", "match"),
    [
        ((Skip(),), ((0, 1),), r"choice holds \[1\], but the library has 1 patterns, 0..0"),
        ((Skip(),), ((0, -1),), r"choice=\(0, -1\) must be whole numbers"),
        ((Skip(),), ((0,), (0, 0)), r"choice has rows of \[1, 2\] heads"),
        ((Skip(),), (), r"choice has rows of \[\] heads"),
        (("skip",), ((0,),), "library holds 'skip'; its members must be static"),
    ],
)
def test_bad_fields(library, choice, match):
    with pytest.raises(ValueError, match=match):
        Table(library, choice)


@pytest.mark.parametrize(
    ("library", "match"),
    [
        ((Diagonal(0.5, 8), Diagonal(0.5, 16)), r"blocks of different \(size, number\)"),
        ((AdaSpa(0.5, 8),), "depends on more than positions"),
        ((Table((Skip(),), ((0,),)),), "depends on more than positions"),
    ],
)
def test_libraries_that_do_not_fit_one_launch(library, match):
    with pytest.raises(ValueError, match=match):
        Table(library, ((0,),)).init(GRID, batch=1, num_heads=1, head_dim=8)


def test_wrong_number_of_heads():
    with pytest.raises(ValueError, match="choices for 2 heads, but the layer has 4; use the table"):
        attended(Table((Skip(),), ((0, 0),)), *inputs(), (), ctx_at(0))
