import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import BlockMask
from sparsevdit_jax import Attended, AttentionPattern, Phase, StepContext, VideoGrid, ops
from sparsevdit_jax.patterns import (
    AdaSpa,
    Dense,
    Diagonal,
    MultiDiagonal,
    PerHead,
    Skip,
    SlidingTile,
    VerticalStripe,
)
from tests import tolerances
from tests.attending import attended, jitted, jitted_anew
from tests.conformance.pattern_suite import PatternSuite, make_case
from tests.sparsevdit_jax.patterns.test_diagonal import TestMultiDiagonal as _MultiDiagonal
from tests.sparsevdit_jax.patterns.test_vertical_stripe import TestVerticalStripe as _Stripe


class TestPerHead(PatternSuite):
    pattern = PerHead(((VerticalStripe(0.75, 8), (1,)), (MultiDiagonal(0.5, 8), (0,))))

    def keep_tokens(self, case):
        parts = [suite.keep_tokens(suite(), case) for suite in (_MultiDiagonal, _Stripe)]
        return np.concatenate(parts, axis=1)


GRID = VideoGrid(4, 4, 6, 9)
MIXED = {
    "one_order": (Diagonal(0.4, 8), VerticalStripe(0.6, 8), Diagonal(0.8, 8), Skip()),
    "orders_differ": (
        MultiDiagonal(0.4, 8),
        Skip(),
        SlidingTile((2, 2, 2), (1, 1, 3)),
        Diagonal(0.8, 8),
    ),
    "searching": (AdaSpa(0.3, 8), Diagonal(0.4, 8), AdaSpa(0.3, 8), MultiDiagonal(0.4, 8)),
    "blocks_differ": (Diagonal(0.4, 8), Diagonal(0.4, 16), MultiDiagonal(0.4, 16), Skip()),
    "dense_too": (Dense(), Diagonal(0.4, 8), Skip(), Dense()),
    "all_skipped": (Skip(),) * 4,
}
LAUNCHES = {"blocks_differ": 2, "all_skipped": 0, "searching": 2}


def inputs(heads, batch=2):
    return jax.random.normal(jax.random.key(1), (3, batch, GRID.num_tokens, heads, 8))


def ctx_of(phase):
    return StepContext(GRID, phase, text_lengths=np.array([3, 9]))


@pytest.mark.parametrize("name", MIXED)
def test_equals_the_loop_over_heads_bit_for_bit(name, monkeypatch):
    merged, qkv = PerHead.of(MIXED[name]), inputs(4)
    # Every group by itself; AdaSpa's heads trade blocks among themselves, so they stay together.
    sizes = dict(batch=2, head_dim=8)
    state = merged.init(GRID, num_heads=4, **sizes)
    alone = [member.init(GRID, num_heads=len(heads), **sizes) for member, heads in merged.groups]
    step, launches, kernel = jitted_anew(merged), [], ops.block_sparse_attention

    def counted(*args, **kwargs):
        launches.append(1)
        return kernel(*args, **kwargs)

    searches = (Phase.FIRST_SEARCH,) if name == "searching" else ()
    for phase in (*searches, Phase.REUSE):
        launches.clear()
        monkeypatch.setattr(ops, "block_sparse_attention", counted)
        out, lse, state = step(*qkv, state, ctx_of(phase))
        monkeypatch.undo()
        if phase is Phase.REUSE:
            assert len(launches) == LAUNCHES.get(name, 1)
        for i, (member, heads) in enumerate(merged.groups):
            at = np.asarray(heads)
            expected, expected_lse, alone[i] = jitted(member)(
                *qkv[:, :, :, at], alone[i], ctx_of(phase)
            )
            np.testing.assert_array_equal(out[:, :, at], expected)
            np.testing.assert_array_equal(lse[:, at], expected_lse)


def test_a_mask_of_heads_in_any_order_gives_each_head_its_own():
    """Three heads in a circle: their order is not its own inverse."""
    order, densities = (2, 0, 1), (0.2, 0.5, 0.8)
    groups = tuple((Diagonal(d, 8), (h,)) for h, d in zip(order, densities, strict=True))
    q, k = jax.random.normal(jax.random.key(0), (2, 1, GRID.num_tokens, 3, 8))
    mixture = PerHead(groups)
    assert mixture.parts(GRID, 3) is None  # one launch for all
    mask = mixture.plan(q, k, (), StepContext(GRID))[0].mask
    for place, (alone, _) in zip(order, groups, strict=True):
        want = alone.static_plan(GRID, 1).mask.to_dense()[0, 0]
        np.testing.assert_array_equal(mask.to_dense()[0, place], want)


def test_layers_of_one_pattern_merge_their_masks_once(monkeypatch):
    merge, merged = BlockMask.concat_heads, []
    monkeypatch.setattr(BlockMask, "concat_heads", lambda *a: merged.append(1) or merge(*a))
    for _ in range(3):
        pattern = PerHead.of((Diagonal(0.35, 8), VerticalStripe(0.45, 8)))
        pattern.init(GRID, batch=1, num_heads=2, head_dim=8)
    assert len(merged) == 1


def test_windows_per_head_equal_each_head_alone():
    windows, qkv = ((1, 1, 3), (3, 1, 1)), inputs(2)

    def attend(window):
        return jitted(SlidingTile((1, 2, 2), window))

    out, *_ = attend(windows)(*qkv, (), ctx_of(Phase.REUSE))
    for head, window in enumerate(windows):
        one, *_ = attend(window)(*qkv[:, :, :, head : head + 1], (), ctx_of(Phase.REUSE))
        np.testing.assert_array_equal(out[:, :, head : head + 1], one)


@dataclasses.dataclass(frozen=True)
class Mean(AttentionPattern):
    """Not block sparse, with state: the mean of v, and how often it was asked."""

    def init(self, grid, *, batch, num_heads, head_dim):
        return jnp.zeros((), np.int32)

    def compute(self, q, k, v, state, ctx):
        mean = jnp.broadcast_to(v.mean(1, keepdims=True), v.shape)
        return Attended(mean, None, state + 1)


def test_patterns_that_are_not_block_sparse_run_by_themselves():
    mixed = PerHead(((Mean(), (2, 0)), (Diagonal(0.4, 8), (1,))))
    qkv = inputs(3)
    state = mixed.init(GRID, batch=2, num_heads=3, head_dim=8)
    out, lse, state = jitted(mixed)(*qkv, state, ctx_of(Phase.REUSE))
    want = qkv[2].mean(1).at[:, 1].set(out[:, 0, 1])
    tolerances.assert_rounding_apart(out[:, 0], want, GRID.num_tokens / 2, "mean")
    assert int(state[0]) == 1
    alone = jitted(Diagonal(0.4, 8))
    expected, *_ = alone(*qkv[:, :, :, 1:2], (), ctx_of(Phase.REUSE))
    np.testing.assert_array_equal(out[:, :, 1:2], expected)
    assert lse is None


def test_of_groups_equal_patterns():
    assert PerHead.of([Skip(), Dense(), Skip()]).groups == ((Skip(), (0, 2)), (Dense(), (1,)))


@pytest.mark.parametrize(
    ("groups", "match"),
    [
        ((), "groups name heads"),
        (((Skip(), (0, 0)),), r"groups name heads \[0, 0\]; name every head from 0 on once"),
        (((Skip(), (0,)), (Dense(), (2,))), r"groups name heads \[0, 2\]"),
        (((Skip(), (0,)), (Dense(), ())), "one at least in each group"),
        ((("skip", (0,)),), r"groups hold 'skip'; each must be \(AttentionPattern, heads\)"),
    ],
)
def test_bad_groups(groups, match):
    with pytest.raises(ValueError, match=match):
        PerHead(groups)


def test_wrong_number_of_heads():
    case = make_case("video")
    per_head = PerHead.of([Skip()] * 3)
    with pytest.raises(ValueError, match="PerHead names 3 heads, but the layer has 2"):
        attended(per_head, *case.qkv, ((),), case.ctx(Phase.REUSE))
    with pytest.raises(ValueError, match="PerHead names 3 heads, but the layer has 4"):
        per_head.init(case.grid, batch=1, num_heads=4, head_dim=8)
