import dataclasses
import json

import pytest

from sparsevdit_jax import SparseAttention, StepSchedule, VideoGrid
from sparsevdit_jax.patterns import AdaSpa, Dense, Diagonal, PerHead, Skip, SlidingTile, Table

GRID = VideoGrid(4, 4, 4, 3, text_first=True)
TABLE = Table((Dense(), Skip(), Diagonal(0.5, 8)), ((0, 1), (2, 2), (1, 0)))
ATTENTION = SparseAttention(
    (
        AdaSpa(0.25, 8),
        PerHead(((SlidingTile((2, 2, 2), (1, 3, 1)), (1,)), (Skip(), (0,)))),
        TABLE,
        AdaSpa(0.25, 8),
    ),
    StepSchedule(3, 1, (1, 2)),
    GRID,
    num_heads=2,
)


def test_json_round_trip_writes_equal_layers_once():
    text = ATTENTION.to_json()
    assert SparseAttention.from_json(text, grid=GRID, num_layers=4, num_heads=2) == ATTENTION
    document = json.loads(text)
    assert document["version"] == 1
    assert document["layers"] == [0, 1, 2, 0]
    assert document["patterns"][0]["pattern"] == "adaspa.AdaSpa"


def test_json_keeps_every_field_and_a_file_that_lacks_a_later_one_means_its_default():
    attention = SparseAttention((AdaSpa(0.25, 8, lse_cache=False),))
    assert SparseAttention.from_json(attention.to_json()) == attention
    document = json.loads(attention.to_json())
    del document["patterns"][0]["lse_cache"]
    older = SparseAttention.from_json(json.dumps(document))
    assert older.patterns == (AdaSpa(0.25, 8, lse_cache=True),)


def test_files_without_dense_last_steps_are_read_and_written_as_before():
    assert "dense_last_steps" not in json.loads(ATTENTION.to_json())["schedule"]
    later = dataclasses.replace(ATTENTION, schedule=StepSchedule(3, 1, (1,), dense_last_steps=1))
    text = later.to_json()
    assert json.loads(text)["schedule"]["dense_last_steps"] == 1
    assert SparseAttention.from_json(text) == later


def test_dense_steps_and_layers_replace_what_was_chosen():
    attention = ATTENTION.with_dense(1, 1, (0,))
    assert attention.patterns == (Dense(), *ATTENTION.patterns[1:])
    assert attention.schedule == StepSchedule(3, 1, (1,), dense_last_steps=1)
    assert (attention.grid, attention.num_heads) == (GRID, 2)
    assert ATTENTION.with_dense() is ATTENTION


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"grid": VideoGrid(4, 4, 5)}, r"made for VideoGrid\(frames=4.*not for the grid Video"),
        ({"num_layers": 5}, "for 4 layers, but the model's layer count is 5; use the file"),
        ({"num_heads": 3}, "made for 2 heads, but the model's head count is 3; use the file"),
    ],
)
def test_files_made_for_something_else_are_refused(kwargs, match):
    with pytest.raises(ValueError, match=match):
        SparseAttention.from_json(ATTENTION.to_json(), **kwargs)


def changed(path, value):
    document = json.loads(ATTENTION.to_json())
    *parents, last = path
    target = document
    for key in parents:
        target = target[key]
    target[last] = value
    return json.dumps(document)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", "not JSON"),
        ("[]", "format is not 'sparsevdit-jax/attention'"),
        (changed(["format"], "other"), "format is not 'sparsevdit-jax/attention'"),
        (changed(["version"], 2), "format version 2, this library reads 1"),
        (changed(["colour"], 1), r"unknown fields \['colour'\]"),
        (changed(["layers"], [0, True]), r"layers=\(0, True\) must be whole numbers"),
        (changed(["layers"], 3), "layers=3 must be whole numbers"),
        (changed(["patterns"], 3), "patterns=3 must be a sequence"),
        (changed(["schedule"], 3), "StepSchedule must be an object with its fields, not 3"),
        (changed(["num_heads"], 2.5), "num_heads=2.5 must be a whole number of at least 1"),
        (changed(["layers"], [0, 9]), r"layers name patterns \[9\], but the file holds 3"),
        (changed(["patterns", 0, "pattern"], "adaspa.Ada"), "unknown pattern 'adaspa.Ada'"),
        (changed(["patterns", 0, "pattern"], "os.System"), "unknown pattern 'os.System'"),
        (changed(["patterns", 0, "blok"], 8), r"AdaSpa has unknown fields \['blok'\] .* known are"),
        (changed(["patterns", 0, "density"], 7), r"density=7 must lie in \(0, 1\]"),
        (changed(["schedule", "num_steps"], 4), "Table of layer 2 has 3 steps, but the schedule"),
        (changed(["grid"], {"frames": 4}), r"VideoGrid has unknown fields \[\] and lacks"),
    ],
)
def test_bad_files(text, match):
    with pytest.raises(ValueError, match=match):
        SparseAttention.from_json(text)


def test_init_makes_every_layers_state_and_checks():
    states = ATTENTION.init(GRID, batch=2, num_heads=2, head_dim=8)
    assert len(states) == ATTENTION.num_layers == 4
    assert states[0].lse.shape == (2, 2, 67)
    assert states[1:3] == ((), ())
    with pytest.raises(ValueError, match="not for the grid"):
        ATTENTION.init(VideoGrid(4, 4, 4), batch=2, num_heads=2, head_dim=8)
    with pytest.raises(ValueError, match="head count is 4"):
        ATTENTION.init(GRID, batch=2, num_heads=4, head_dim=8)


def test_uniform():
    assert SparseAttention.uniform(Dense(), 2).patterns == (Dense(), Dense())
    assert SparseAttention.uniform(Dense(), 2).schedule == StepSchedule()


def test_bad_patterns():
    with pytest.raises(ValueError, match=r"patterns\[1\]='dense' must be an AttentionPattern"):
        SparseAttention((Dense(), "dense"))
    inner = PerHead(((TABLE, (0, 1)),))
    with pytest.raises(ValueError, match="Table of layer 0 has 3 steps, but the schedule has 50"):
        SparseAttention((inner,))
