"""What --attention means."""

import json

import pytest

from experiments.generation.choose import choose_attention
from sparsevdit_jax import SparseAttention, StepSchedule, VideoGrid
from sparsevdit_jax.fastvideo import to_strategy
from sparsevdit_jax.patterns import Dense, SlidingTile
from sparsevdit_jax.presets import PRESETS

GRID = VideoGrid(6, 8, 8)
SIZES = dict(num_layers=2, num_heads=3, num_steps=4)


def ours():
    return SparseAttention(
        (SlidingTile((2, 4, 4), (1, 1, 1)), Dense()), StepSchedule(4, 1), GRID, 3
    )


def test_dense_is_no_attention():
    assert choose_attention("dense", GRID, **SIZES) is None


@pytest.mark.parametrize("method", ["sta", "adaspa", "sparse-vdit"])
def test_methods_fit_any_canvas(method, capsys):
    attention = choose_attention(method, GRID, **SIZES)
    assert attention.num_layers == 2
    assert attention.schedule.num_steps == 4
    assert method in capsys.readouterr().out


def test_a_published_setting_is_taken_where_it_fits(capsys):
    preset = PRESETS["hunyuanvideo-sparse-vdit-129f"]
    attention = choose_attention(
        "sparse-vdit", preset.grid, num_layers=60, num_heads=24, num_steps=50
    )
    assert attention == preset.attention()
    assert "hunyuanvideo-sparse-vdit-129f" in capsys.readouterr().out
    other = choose_attention("sparse-vdit", preset.grid, num_layers=60, num_heads=24, num_steps=30)
    assert other.grid is None


def test_files_of_both_formats_are_read(tmp_path):
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    a.write_text(ours().to_json())
    assert choose_attention(str(a), GRID, **SIZES) == ours()
    b.write_text(
        to_strategy(
            SparseAttention(
                (SlidingTile((6, 8, 8), (1, 1, 1)),) * 2,
                StepSchedule(4, 1),
                VideoGrid(12, 16, 16),
                3,
            )
        )
    )
    attention = choose_attention(str(b), VideoGrid(12, 16, 16), **SIZES)
    assert attention.schedule == StepSchedule(4, 1)
    assert attention.num_heads == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(num_layers=3), "are for 2 layers"),
        (dict(num_heads=4), "made for 3 heads"),
        (dict(num_steps=5), "it is for 4 steps, not for 5; pass --steps 4"),
    ],
)
def test_files_for_something_else_are_refused(tmp_path, change, message):
    path = tmp_path / "a.json"
    path.write_text(ours().to_json())
    with pytest.raises(ValueError, match=message):
        choose_attention(str(path), GRID, **SIZES | change)


def test_what_is_neither_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"attention='stt' must be dense, sta, adaspa, sparse-vdit, or"
    ):
        choose_attention("stt", GRID, **SIZES)
    with pytest.raises(FileNotFoundError, match=r"no file .*nothing\.json"):
        choose_attention(str(tmp_path / "nothing.json"), GRID, **SIZES)
    path = tmp_path / "bad.json"
    path.write_text(json.dumps({"x": 1}))
    with pytest.raises(ValueError, match=r"bad\.json: entry 'x'"):
        choose_attention(str(path), GRID, **SIZES)
