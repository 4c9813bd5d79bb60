"""FastVideo's strategy files."""

import json

import numpy as np
import pytest

from sparsevdit_jax import Phase, SparseAttention, StepSchedule, VideoGrid
from sparsevdit_jax.fastvideo import from_strategy, tiles_of, to_strategy
from sparsevdit_jax.patterns import AdaSpa, Dense, SlidingTile

GRID = VideoGrid(18, 24, 32)  # 3 x 3 x 4 tiles
FULL = [3, 3, 4]
WINDOWS = [[3, 1, 1], [1, 3, 3], FULL]


def strategy(steps=4, layers=2, heads=3, full=2):
    return {
        f"{s}_{i}_{h}": FULL if s < full else WINDOWS[(s + i + h) % 3]
        for s in range(steps)
        for i in range(layers)
        for h in range(heads)
    }


def test_leading_full_steps_are_dense_and_the_rest_a_table():
    attention = from_strategy(json.dumps(strategy()), GRID)
    assert attention.num_layers == 2
    assert attention.num_heads == 3
    assert attention.grid == GRID
    assert attention.schedule.phases() == (Phase.DENSE,) * 2 + (Phase.REUSE,) * 2
    table = attention.patterns[1]
    for step in (2, 3):
        for head in range(3):
            window = strategy()[f"{step}_1_{head}"]
            pattern = table.library[table.choice[step][head]]
            assert pattern == (Dense() if window == FULL else SlidingTile((6, 8, 8), tuple(window)))


def test_a_strategy_comes_back():
    given = strategy()
    assert json.loads(to_strategy(from_strategy(json.dumps(given), GRID))) == given


def test_windows_as_large_as_the_canvas_are_full():
    given = strategy() | {"3_0_0": [5, 6, 10]}
    attention = from_strategy(json.dumps(given), GRID)
    table = attention.patterns[0]
    assert table.library[table.choice[3][0]] == Dense()


def test_per_head_and_plain_patterns_are_written():
    patterns = (
        SlidingTile((6, 8, 8), ((1, 1, 1), (3, 1, 1))),
        SlidingTile((6, 8, 8), (1, 3, 1)),
        Dense(),
    )
    attention = SparseAttention(patterns, StepSchedule(2, 1), GRID, 2)
    written = json.loads(to_strategy(attention))
    assert len(written) == 2 * 3 * 2
    assert [written[f"1_{i}_{h}"] for i in range(3) for h in range(2)] == [
        [1, 1, 1], [3, 1, 1], [1, 3, 1], [1, 3, 1], FULL, FULL,
    ]  # fmt: skip
    assert written["0_0_0"] == FULL


def test_the_grid_s_ragged_tiles_count():
    assert tiles_of(VideoGrid(21, 45, 80), (6, 8, 8)) == (4, 6, 10)


def test_a_golden_search_result_is_read_as_it_was_meant():
    rng = np.random.default_rng(0)
    windows = [FULL, [1, 1, 3], [3, 3, 1]]
    choice = rng.integers(0, 3, (5, 2, 4))
    text = json.dumps({f"{s}_{i}_{h}": windows[c] for (s, i, h), c in np.ndenumerate(choice)})
    attention = from_strategy(text, GRID)
    kept = [np.prod(windows[c]) if c else np.prod(FULL) for c in choice.ravel()]
    library = attention.patterns[0].library
    ours = [
        np.prod(tiles_of(GRID, (6, 8, 8))) if isinstance(p, Dense) else np.prod(p.window)
        for table in attention.patterns
        for row in table.choice
        for p in (table.library[c] for c in row)
    ]
    assert sum(ours) == sum(kept)
    assert len(library) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "holds one object, not list"),
        ('{"0_0": [1, 1, 1]}', "entry '0_0'"),
        ('{"0_0_0": [1, 1]}', r"\[1, 1\] must be"),
        ('{"0_0_0": [1, 1, 1], "1_0_1": [1, 1, 1]}', "lacks 2 entries, such as '0_0_1'"),
    ],
)
def test_other_files_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        from_strategy(text, GRID)


def test_what_the_format_cannot_hold_is_refused():
    schedule = StepSchedule(2)
    with pytest.raises(ValueError, match="must be known"):
        to_strategy(SparseAttention((Dense(),), schedule))
    with pytest.raises(ValueError, match="has no place in a strategy file"):
        to_strategy(SparseAttention((AdaSpa(),), schedule, GRID, 2))
    two = (SlidingTile((6, 8, 8), (1, 1, 1)), SlidingTile((2, 8, 8), (1, 1, 1)))
    with pytest.raises(ValueError, match="differ; a strategy file is for one tile"):
        to_strategy(SparseAttention(two, schedule, GRID, 2))
