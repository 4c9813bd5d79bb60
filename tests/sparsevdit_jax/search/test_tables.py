import json
from pathlib import Path

import numpy as np
import pytest

from sparsevdit_jax import SparseAttention, StepSchedule, VideoGrid, metrics
from sparsevdit_jax.fastvideo import to_strategy
from sparsevdit_jax.patterns import AdaSpa, Dense, Diagonal, MultiDiagonal, Skip, SlidingTile
from sparsevdit_jax.search.rules import least_error
from sparsevdit_jax.search.tables import (
    choice_density,
    fixed_table,
    step_table,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "sta_mask_search.npz"
GRID = VideoGrid(4, 4, 4, text_len=5)
STATIC = (Skip(), Diagonal(0.3, 8), MultiDiagonal(0.5, 8), SlidingTile((2, 2, 2), (1, 1, 1)))


@pytest.mark.parametrize("skip", [0, 2, 6])
def test_searched_strategies_and_their_sparsity_are_fastvideos(skip):
    with np.load(GOLDEN) as golden:
        error = np.moveaxis(golden["losses"], 1, 3)
        windows = [tuple(int(n) for n in w) for w in golden["candidates"]]
        candidates = tuple(SlidingTile((6, 8, 8), w, "exact") for w in windows)
        grid = VideoGrid(18, 48, 80)
        choice = least_error(error)
        attention = step_table(choice, candidates, StepSchedule(6, skip), grid=grid)
        strategy = json.loads(to_strategy(attention))
        expected = golden[f"strategy_skip{skip}"]
        for t, layer, head in np.ndindex(expected.shape[:3]):
            assert strategy[f"{t}_{layer}_{head}"] == expected[t, layer, head].tolist()
        volume = np.prod([strategy[key] for key in strategy], axis=1).sum()
        full = np.prod(golden["full_window"]) * len(strategy)
        np.testing.assert_allclose(1 - volume / full, golden[f"sparsity_skip{skip}"], rtol=1e-12)


def test_a_step_table_has_each_head_s_choice_and_comes_back_from_json():
    choice = np.random.default_rng(0).integers(-1, 4, (5, 2, 3))
    schedule = StepSchedule(5, 1, dense_last_steps=1)
    attention = step_table(choice, STATIC, schedule, grid=GRID)
    attention.init(GRID, batch=1, num_heads=3, head_dim=8)
    assert SparseAttention.from_json(attention.to_json()) == attention
    densities = [metrics.density(p, GRID, num_heads=1)[0] for p in STATIC]
    expected = choice_density(choice, densities)
    for step, layer in np.ndindex(5, 2):
        table = attention.patterns[layer]
        kept = metrics.density(table, GRID, num_heads=3, step=step)
        np.testing.assert_allclose(kept, 1 if step in (0, 4) else expected[step, layer], rtol=1e-6)


def test_a_strategy_says_full_where_the_schedule_is_dense():
    schedule = StepSchedule(3, 1, dense_last_steps=1)
    attention = SparseAttention((STATIC[3],), schedule, GRID, 1)
    assert [json.loads(to_strategy(attention))[f"{s}_0_0"] for s in range(3)] == [
        [2, 2, 2],
        [1, 1, 1],
        [2, 2, 2],
    ]


def test_a_fixed_table_groups_heads_and_takes_any_pattern():
    candidates = (*STATIC, AdaSpa(0.3, 8, head_adaptive=False))
    attention = fixed_table(
        np.array([[-1, 4, 4], [0, 1, 0]]), candidates, StepSchedule(4, 1), grid=GRID
    )
    assert attention.patterns[0].groups == ((Dense(), (0,)), (candidates[4], (1, 2)))
    assert attention.patterns[1].groups == ((Skip(), (0, 2)), (STATIC[1], (1,)))
    assert SparseAttention.from_json(attention.to_json()) == attention


def test_density_of_adaspa_before_a_search_is_that_of_its_searched_mask():
    pattern = AdaSpa(0.3, 8, head_adaptive=False)
    grid = VideoGrid(4, 4, 4, text_len=8)
    _, base, _ = pattern.video_counts(grid)
    # 8 video blocks and one of text: video rows keep base + 1 of 9, text rows all.
    np.testing.assert_allclose(
        metrics.density(pattern, grid, num_heads=1), (8 * (base + 1) + 9) / 81
    )


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="with 4 steps"):
        step_table(np.zeros((5, 2, 3), int), STATIC, StepSchedule(4), grid=GRID)
    with pytest.raises(ValueError, match=r"\[layers, heads\]"):
        fixed_table(np.zeros((5, 2, 3), int), STATIC, StepSchedule(4), grid=GRID)
