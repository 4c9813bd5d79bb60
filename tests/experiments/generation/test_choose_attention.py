"""What --attention means."""

import json

import pytest

from experiments.generation.choose_attention import choose_attention
from sparsevdit_jax import SparseAttention, StepSchedule, VideoGrid
from sparsevdit_jax.fastvideo import to_strategy
from sparsevdit_jax.patterns import Dense, SlidingTile, Table
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


def table():
    """Step 0 dense, as a search writes it, then tiles."""
    return SparseAttention(
        (Table((Dense(), SlidingTile((2, 4, 4), (1, 1, 1))), ((0,) * 3, *[(1,) * 3] * 3)),) * 2,
        StepSchedule(4, 1),
        GRID,
        3,
    )


FLAGS = [  # flags, phases of methods that do not search, those of AdaSpa, dense layers
    (dict(dense_steps=2), "ddrr", "ddfr", ()),
    (dict(dense_steps=0), "rrrr", "fsrr", ()),
    (dict(dense_last_steps=1), "drrd", "fsrd", ()),
    (dict(dense_steps=2, dense_last_steps=2, dense_layers=[1]), "dddd", "dddd", (1,)),
    (dict(dense_layers=(0, 0)), "drrr", "fsrr", (0,)),
]


@pytest.mark.parametrize(("flags", "plain", "adaspa", "layers"), FLAGS)
@pytest.mark.parametrize("choice", ["sta", "adaspa", "sparse-vdit", "file"])
def test_flags_say_which_steps_and_layers_are_dense(
    choice, flags, plain, adaspa, layers, tmp_path, capsys
):
    usual = ()
    if choice == "file":
        usual, path = (1,), tmp_path / "a.json"
        path.write_text(ours().to_json())
        choice = str(path)
    attention = choose_attention(choice, GRID, **SIZES, **flags)
    phases = "".join(phase.value[0] for phase in attention.schedule.phases())
    assert phases == (adaspa if choice == "adaspa" else plain)
    dense = tuple(i for i, p in enumerate(attention.patterns) if p == Dense())
    assert dense == tuple(sorted({*usual, *layers}))
    assert SparseAttention.from_json(attention.to_json()) == attention
    said = capsys.readouterr().out
    assert f"{attention.schedule.dense_steps} dense steps first" in said
    assert f"{attention.schedule.dense_last_steps} last of 4" in said
    assert not dense or f"dense layers {dense[0]}" in said


@pytest.mark.parametrize("flags", [flags for flags, *_ in FLAGS])
def test_dense_attention_takes_no_dense_steps_or_layers(flags):
    with pytest.raises(ValueError, match="is dense in every step and layer already; leave"):
        choose_attention("dense", GRID, **SIZES, **flags)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (dict(dense_steps=4, dense_last_steps=1), "dense_steps=4 and dense_last_steps=1 are more"),
        (
            dict(dense_last_steps=4),
            "dense_steps=1 and dense_last_steps=4 are more than num_steps=4",
        ),
        (dict(dense_steps=-1), "dense_steps=-1 must be a whole number of at least 0"),
        (dict(dense_last_steps=1.0), "dense_last_steps=1.0 must be a whole number"),
        (dict(dense_layers=(2,)), r"dense_layers=2 must be a layer of this model, 0\.\.1"),
        (dict(dense_layers=(-1,)), "dense_layers=-1 must be .* count layers from 0"),
        (dict(dense_layers=(True,)), "dense_layers=True must be a whole number"),
    ],
)
@pytest.mark.parametrize("choice", ["sta", "file"])
def test_dense_steps_and_layers_that_do_not_fit_are_refused(choice, flags, message, tmp_path):
    if choice == "file":
        path = tmp_path / "a.json"
        path.write_text(ours().to_json())
        choice = str(path)
    with pytest.raises(ValueError, match=message):
        choose_attention(choice, GRID, **SIZES, **flags)


def test_a_table_keeps_the_dense_steps_that_it_was_made_with(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(table().to_json())
    with pytest.raises(ValueError, match=r"step 0 would be sparse, but the Table of layer 0 was"):
        choose_attention(str(path), GRID, **SIZES, dense_steps=0)
    longer = choose_attention(str(path), GRID, **SIZES, dense_steps=2, dense_last_steps=1)
    assert longer.schedule == StepSchedule(4, 2, dense_last_steps=1)
    dense = choose_attention(str(path), GRID, **SIZES, dense_steps=0, dense_layers=(0, 1))
    assert dense.patterns == (Dense(), Dense())


def test_a_strategy_for_another_canvas_is_carried_over_and_said_in_one_line(tmp_path, capsys):
    path, full = tmp_path / "a.json", [2, 2, 2]
    windows = {
        f"{s}_{n}_{h}": full if s < 2 else [2, 1, 1]
        for s in range(4)
        for n in (0, 1)
        for h in range(3)
    }
    path.write_text(json.dumps(windows), encoding="utf-8-sig")
    attention = choose_attention(str(path), VideoGrid(18, 16, 16), **SIZES)
    assert attention.schedule == StepSchedule(4, 2)
    assert SlidingTile((6, 8, 8), (3, 1, 1)) in attention.patterns[0].library
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2
    assert "made for [2, 2, 2] tiles and this latent grid has [3, 2, 2]" in said[0]
    path.write_text(json.dumps({key: [2, 1, 1] for key in windows}))
    with pytest.raises(
        ValueError, match=r"a\.json: the latent grid that this strategy was made for is unknown"
    ):
        choose_attention(str(path), VideoGrid(18, 16, 16), **SIZES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(num_layers=3), "were made for 2 layers"),
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
        ValueError,
        match=r"'stt' is no method \(did you mean sta\?\) and no .json file .* dense, sta, adaspa",
    ):
        choose_attention("stt", GRID, **SIZES)
    with pytest.raises(FileNotFoundError, match=r"no file .*nothing\.json"):
        choose_attention(str(tmp_path / "nothing.json"), GRID, **SIZES)
    path = tmp_path / "bad.json"
    path.write_text(json.dumps({"x": 1}))
    with pytest.raises(ValueError, match=r"bad\.json: entry 'x'"):
        choose_attention(str(path), GRID, **SIZES)


@pytest.mark.parametrize("data", [b"", b"[1, 2]", b"{", b"[" * 200_000, "{}".encode("utf-16")])
def test_what_is_no_json_is_refused_with_a_remedy(tmp_path, data):
    path = tmp_path / "bad.json"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"bad\.json (is|must) .*download it again") as refused:
        choose_attention(str(path), GRID, **SIZES)
    assert len(str(refused.value)) < 300
