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


PAPER = VideoGrid(18, 48, 80)  # 3 x 6 x 10 tiles, what the released file for Wan is made for


def released(steps=4, full=2, heads=2):
    """Steps of full windows, then windows that are full along some axis, or none."""
    partial = [[3, 1, 10], [1, 6, 10], [3, 3, 3], [3, 6, 1]]
    return json.dumps(
        {
            f"{s}_0_{h}": [3, 6, 10] if s < full else partial[(s + h) % 4]
            for s in range(steps)
            for h in range(heads)
        }
    )


@pytest.mark.parametrize(
    ("grid", "tiles", "windows"),
    [
        (VideoGrid(21, 45, 80), (4, 6, 10), [(4, 3, 3), (4, 6, 1), (4, 1, 10)]),  # longer than the file's
        (VideoGrid(21, 30, 52), (4, 4, 7), [(4, 3, 3), (4, 4, 1), (4, 1, 7)]),  # longer and smaller
        (VideoGrid(18, 90, 160), (3, 12, 20), [(3, 3, 3), (3, 12, 1), (3, 1, 20)]),  # larger
        (VideoGrid(1, 16, 16, text_len=5), (1, 2, 2), [(1, 2, 2), (1, 2, 1), (1, 1, 2)]),  # an image
        (PAPER, (3, 6, 10), [(3, 3, 3), (3, 6, 1), (3, 1, 10)]),
    ],
)  # fmt: skip
def test_a_file_s_warm_up_and_full_axes_stay_full_on_any_canvas(grid, tiles, windows):
    said = []
    attention = from_strategy(released(), grid, say=said.append)
    assert attention.schedule == StepSchedule(4, 2)
    assert attention.grid == grid
    table = attention.patterns[0]
    found = [table.library[table.choice[step][head]] for step, head in ((2, 0), (2, 1), (3, 1))]
    expected = [SlidingTile((6, 8, 8), w) if w != tiles else Dense() for w in windows]
    assert found == expected
    attention.init(grid, batch=1, num_heads=2, head_dim=8)  # without a warning of any window
    if grid == PAPER:
        assert not said
    else:
        (line,) = said
        assert f"made for [3, 6, 10] tiles and this latent grid has {list(tiles)}: 2 first" in line
        assert f"[3, 6, 1] is {list(windows[1])}" in line


def test_full_steps_at_the_end_are_dense_too():
    given = json.loads(released()) | {"3_0_0": [3, 6, 10], "3_0_1": [3, 6, 10]}
    for grid in (PAPER, VideoGrid(21, 45, 80)):
        attention = from_strategy(json.dumps(given), grid)
        assert attention.schedule == StepSchedule(4, 2, dense_last_steps=1)
    assert json.loads(to_strategy(from_strategy(json.dumps(given), PAPER))) == given
    full = json.dumps({"0_0_0": [3, 6, 10], "1_0_0": [3, 6, 10]})
    assert from_strategy(full, PAPER).schedule == StepSchedule(2, 2)


@pytest.mark.parametrize(
    "text",
    [
        released(full=0),  # no warm-up
        json.dumps({"0_0_0": [3, 3, 3], "1_0_0": [3, 3, 3]}),  # full, or a part? nothing says
        json.dumps({"0_0_0": [3, 6, 10], "0_0_1": [3, 1, 10]}),  # the first step is mixed
        json.dumps({"0_0_0": [3, 3, 3], "1_0_0": [1, 6, 10]}),  # two windows, neither the largest
    ],
)
def test_a_file_that_does_not_tell_its_canvas_is_refused_on_another(text):
    grid = VideoGrid(21, 45, 80)
    with pytest.raises(
        ValueError,
        match=r"the latent grid that this strategy was made for is unknown.* this latent grid has \[4, 6, 10\]",
    ):
        from_strategy(text, grid)
    known = from_strategy(text, grid, made_for=PAPER)
    assert known.schedule.dense_steps == 0
    own = from_strategy(text, PAPER, made_for=PAPER)
    assert own.schedule.dense_steps == 0


def test_a_file_whose_windows_cover_the_canvas_is_dense():
    small = VideoGrid(6, 8, 8)
    assert from_strategy(released(full=0), small).schedule == StepSchedule(4, 4)


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
        ("[]", "holds one object of windows, not list"),
        ("{}", "holds one object of windows, not an empty one"),
        ('{"0_0": [1, 1, 1]}', "entry '0_0'"),
        ('{"0_0_0": [1, 1]}', r"\[1, 1\] must be"),
        ('{"0_0_0": [1, 1, 1], "1_0_1": [1, 1, 1]}', "lacks 2 entries, such as '0_0_1'"),
        ('{"0_0_0": [1, 1, 1], "999999999_0_0": [1, 1, 1]}', "lacks 999999998 entries"),
        ('{"0_0_0": [1, 1, true]}', r"\[1, 1, True\] must be"),
        ('{"0_0_0": [1, 1, 1.0]}', "must be"),
        ('{"0_0_00": [1, 1, 1]}', "entry '0_0_00'"),
        ('{"0_0_0": [1, 1, 1], "0_0_0": [1, 1, 3]}', "entry '0_0_0' occurs twice"),
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
