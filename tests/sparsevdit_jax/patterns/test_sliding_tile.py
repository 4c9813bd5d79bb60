import math
import time
import tracemalloc
import warnings

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsevdit_jax import TokenOrder, VideoGrid, metrics, pattern, sparse_attention, token_order
from sparsevdit_jax.patterns import Dense, PerHead, SlidingTile
from tests.conformance.pattern_suite import PatternSuite
from tests.sparsevdit_jax import oracles

pytestmark = pytest.mark.optimised

HUNYUAN = VideoGrid(30, 48, 80)
WAN = VideoGrid(21, 45, 80)


def window_keep(grid, tile, window):
    """Token-level truth of odd or full windows: bool [1, Lv, Lv], by the paper's centre rule per
    axis.
    """
    keep = np.ones((grid.num_video_tokens,) * 2, bool)
    for axis, (size, t, w) in enumerate(zip(grid.shape, tile, window, strict=True)):
        n, half = -(-size // t), w // 2
        at = grid.coordinates()[:, axis] // t
        if w < n:
            centre = np.maximum(np.minimum(at, n - 1 - half), half)
            keep &= np.abs(centre[:, None] - at[None, :]) <= half
    return keep[None]


class TestSlidingTile(PatternSuite):
    pattern = SlidingTile((2, 2, 2), (1, 3, 1))

    def keep_tokens(self, case):
        keep = window_keep(case.grid, (2, 2, 2), (1, 3, 1))
        return oracles.join_text(keep, case.grid, case.text_lengths, 2)


class TestWindowPerHead(PatternSuite):
    pattern = SlidingTile((1, 2, 2), ((1, 1, 1), (3, 1, 5)))

    def keep_tokens(self, case):
        keep = [window_keep(case.grid, (1, 2, 2), w)[0] for w in self.pattern.window]
        return oracles.join_text(np.stack(keep), case.grid, case.text_lengths, 2)


@pytest.mark.filterwarnings("ignore:SlidingTile window")
@pytest.mark.parametrize(("rule", "tiles"), [("paper", 5), ("exact", 4)])
def test_the_rule_of_even_windows_reaches_the_mask(rule, tiles):
    kept = SlidingTile((1, 1, 1), (4, 1, 1), rule).keep_blocks(VideoGrid(9, 1, 1), 1)
    assert set(kept[0].sum(-1)) == {tiles}


@pytest.mark.parametrize(
    ("window", "kept", "percent"),
    [
        ((3, 3, 3), 8_100, "91.00"),
        ((5, 3, 3), 13_500, "85.00"),
        ((3, 3, 5), 13_500, "85.00"),
        ((1, 6, 10), 18_000, "80.00"),
        ((5, 1, 10), 15_000, "83.33"),
        ((5, 6, 1), 9_000, "90.00"),
        ((5, 3, 5), 22_500, "75.00"),
        ((5, 5, 5), 37_500, "58.33"),
        ((5, 5, 7), 52_500, "41.67"),
        ((5, 1, 1), 1_500, "98.33"),
        ((3, 6, 10), 54_000, "40.00"),
    ],
)
def test_published_counts_and_sparsities(window, kept, percent):
    sta = SlidingTile((6, 8, 8), window)
    keep = sta.keep_blocks(HUNYUAN, 24)[0]
    assert keep.sum() == kept
    assert set(keep.sum(-1)) == {kept // 300}
    density = metrics.density(sta, HUNYUAN, num_heads=24)
    assert f"{100 * (1 - density[0]):.2f}" == percent


def test_mask_is_not_symmetric_and_columns_are_ragged():
    keep = SlidingTile((6, 8, 8), (3, 3, 3)).keep_blocks(HUNYUAN, 1)[0]
    readers = keep.sum(0)
    assert (readers.min(), readers.max()) == (8, 80)
    line = SlidingTile((1, 1, 1), (1, 1, 3)).keep_blocks(VideoGrid(1, 1, 5), 1)[0]
    assert line[0, 2]
    assert not line[2, 0]


@pytest.mark.filterwarnings("ignore:SlidingTile window")
@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 7)] * 3),
    tile=st.tuples(*[st.integers(1, 4)] * 3),
    window=st.tuples(*[st.sampled_from([1, 3, 5, 9])] * 3),
)
def test_odd_windows_keep_the_same_tiles_in_every_row(shape, tile, window):
    grid, sta = VideoGrid(*shape), SlidingTile(tile, window)
    keep, order = sta.keep_blocks(grid, 1)[0], sta.token_order(grid)
    per_row = np.prod([min(w, n) for w, n in zip(window, order.tiles, strict=True)])
    assert set(keep.sum(-1)) == {per_row}
    tokens = token_order.slot_positions(order) // order.block
    truth = window_keep(grid, tile, window)[0]
    np.testing.assert_array_equal(keep[tokens][:, tokens], truth)


@pytest.mark.parametrize(
    ("grid", "tile"),
    [
        (VideoGrid(1, 6, 10), (1, 4, 4)),
        (VideoGrid(1, 1, 37), (1, 1, 5)),
        (VideoGrid(2, 3, 5, 3), (4, 4, 4)),
    ],
)
def test_any_canvas_with_a_full_window_is_dense(grid, tile):
    qkv = jax.random.normal(jax.random.key(0), (3, 1, grid.num_tokens, 1, 4))
    full = SlidingTile(tile, TokenOrder(grid, math.prod(tile), tile).tiles)
    out = sparse_attention(*qkv, grid=grid, pattern=full)
    dense = sparse_attention(*qkv, grid=grid, pattern=Dense())
    np.testing.assert_allclose(out, dense, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("grid", "text"), [(HUNYUAN, 256), (WAN, 0)])
def test_production_masks_are_cheap(grid, text):
    grid = VideoGrid(*grid.shape, text)
    windows = [(3, 3, 3), (5, 3, 3), (3, 3, 5), (1, 6, 10), (5, 1, 10), (5, 6, 1), (5, 3, 5)]
    windows += [(3, 5, 5), (5, 5, 5), (5, 5, 7), (5, 1, 1), (3, 6, 10)]
    sta = SlidingTile((6, 8, 8), tuple(windows) + tuple(w[::-1] for w in windows), "exact")

    def build():
        for cache in (pattern._static_mask, token_order.slot_positions, token_order.gather_indices):
            cache.cache_clear()
        start = time.perf_counter()
        mask = sta.block_mask(grid, 24)
        token_order.gather_indices(sta.token_order(grid))
        return time.perf_counter() - start, mask

    assert min(build()[0] for _ in range(3)) < 0.2
    tracemalloc.start()
    mask = build()[1]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6
    assert mask.kv_counts.shape == (1, 24, sta.token_order(grid).num_blocks)


def test_even_partial_window_warns_once_naming_both_rules():
    grid, sta = VideoGrid(1, 1, 23), SlidingTile((1, 1, 1), (1, 1, 4))
    with pytest.warns(UserWarning, match=r"\[4\] .* even_window='paper' .*'exact'") as caught:
        [sta.block_mask(grid, 1) for _ in range(3)]
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SlidingTile((1, 1, 1), (1, 1, 4), "exact").block_mask(grid, 1)
        SlidingTile((1, 1, 1), (1, 1, 23)).block_mask(grid, 1)


PAPER = VideoGrid(18, 48, 80)  # 3 x 6 x 10 tiles of the paper's


@pytest.mark.parametrize(
    ("window", "grid", "says"),
    [
        ((18, 24, 24), PAPER, r"\(18, 24, 24\) counts tiles, not tokens.*: attention is full\. .*window=\(3, 6, 10\)"),
        (((1, 1, 1), (18, 24, 24)), VideoGrid(18, 48, 80, 5), r"\(18, 24, 24\) counts tiles"),
        ((18, 8, 8), PAPER, r"attention is full along an axis\. .*window=\(3, 6, 8\)"),
        ((3, 6, 11), PAPER, r"attention is full\. .*SlidingTile\.from_tokens"),
    ],
)  # fmt: skip
def test_a_window_larger_than_the_canvas_warns_once(window, grid, says):
    sta = SlidingTile((6, 8, 8), window, "exact")

    def build():
        for each in (sta, PerHead(((sta, (0, 1)),)), sta):
            each.init(grid, batch=1, num_heads=2, head_dim=8)
            pattern._static_mask.cache_clear()  # what is built again does not warn again

    with pytest.warns(UserWarning, match=says) as caught:
        build()
    assert len(caught) == 1


@pytest.mark.parametrize(
    ("window", "grid"),
    [
        ((3, 6, 10), PAPER),  # the canvas itself
        ((3, 3, 3), VideoGrid(1, 48, 80)),  # a window in tiles, on a short clip
        ((5, 3, 3), PAPER),
        ((3, 3, 10), PAPER),
    ],
)
def test_a_usual_window_does_not_warn(window, grid):
    SlidingTile((6, 8, 8), window).block_mask(grid, 1)


def test_windows_in_tokens_are_the_paper_s():
    sta = SlidingTile.from_tokens((6, 8, 8), (18, 24, 24))
    assert sta == SlidingTile((6, 8, 8), (3, 3, 3))
    heads = SlidingTile.from_tokens([6, 8, 8], [[30, 40, 40], (6, 8, 8)], "exact")
    assert heads == SlidingTile((6, 8, 8), ((5, 5, 5), (1, 1, 1)), "exact")
    assert SlidingTile.from_tokens((1, 1, 1), (3, 3, 3)).window == (3, 3, 3)


@pytest.mark.parametrize(
    ("window", "match"),
    [
        ((18, 24, 25), r"window=\(18, 24, 25\) tokens must be a multiple of tile=\(6, 8, 8\)"),
        (((18, 24, 24), (3, 24, 24)), r"window=\(3, 24, 24\) tokens must be a multiple"),
        ((18, 24), "must be 3 whole numbers"),
        ((0, 24, 24), "must be 3 whole numbers of at least 1"),
    ],
)
def test_windows_in_tokens_that_are_no_tiles_are_refused(window, match):
    with pytest.raises(ValueError, match=match):
        SlidingTile.from_tokens((6, 8, 8), window)


@pytest.mark.parametrize(
    ("args", "match"),
    [
        (((0, 2, 2), (1, 1, 1)), r"tile=\(0, 2, 2\) must be 3 whole numbers"),
        (((2, 2), (1, 1, 1)), r"tile=\(2, 2\) must be 3 whole numbers"),
        (
            ((2, 2, 2), (1, 0, 1)),
            r"window=\(1, 0, 1\) must be 3 whole numbers of at least 1; .* in tiles",
        ),
        (((2, 2, 2), (1, 1.5, 1)), "must be 3 whole numbers"),
        (((2, 2, 2), ()), r"window=\(\) must be 3"),
        (((2, 2, 2), (1, 1, 1), "left"), "even_window='left' must be one of"),
    ],
)
def test_bad_fields(args, match):
    with pytest.raises(ValueError, match=match):
        SlidingTile(*args)


def test_wrong_number_of_heads():
    sta = SlidingTile((2, 2, 2), ((1, 1, 1),) * 3)
    with pytest.raises(ValueError, match="windows for 3 heads, but the layer has 4; give one"):
        sta.init(VideoGrid(4, 4, 4), batch=1, num_heads=4, head_dim=8)
