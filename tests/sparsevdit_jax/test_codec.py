import dataclasses
import math

import numpy as np
import pytest

from sparsevdit_jax import (
    AttentionPattern,
    SparseAttention,
    StepSchedule,
    TokenOrder,
    VideoGrid,
    codec,
)
from sparsevdit_jax.distill import Recorded
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
from tests.sparsevdit_jax.test_pattern import Own


@pytest.mark.parametrize(
    "pattern",
    [
        VerticalStripe(0.5, 8),
        VerticalStripe(columns=(1, 2)),
        Own(3),
        PerHead(((Skip(), (0,)), (Diagonal(0.5), (1,)))),
    ],
)
def test_round_trip(pattern):
    assert codec.decode(codec.encode(pattern)) == pattern


def test_what_cannot_be_written():
    @dataclasses.dataclass(frozen=True)
    class Local(AttentionPattern):
        pass

    @dataclasses.dataclass(frozen=True)
    class Dense(AttentionPattern):
        pass

    Dense.__module__, Dense.__qualname__ = (
        "dense",
        "Dense",
    )  # a user's module, called as one of ours
    for cls in (Local, Dense):
        with pytest.raises(
            ValueError, match=r"cannot be written as JSON, because .* does not name it"
        ):
            codec.encode(cls())
    with pytest.raises(ValueError, match="Recorded has a field 'pattern', which stands for"):
        codec.encode(Recorded(Skip()))
    with pytest.raises(ValueError, match="of type ndarray cannot be written as JSON"):
        codec.encode(np.zeros(1))


@pytest.mark.parametrize(
    "name",
    [
        None,
        3,
        "Dense",
        "per_head.BlockMask",
        "nothing.Here",
        "a.b.C",
        "os.path",
        "json.JSONDecoder",
        "sparsevdit_jax.pattern.StaticPattern",
        "__main__.Mine",
    ],
)
def test_names_that_are_no_pattern(name):
    with pytest.raises(ValueError, match=r"unknown pattern .* such as 'sliding_tile.SlidingTile'"):
        codec.decode({"pattern": name})


def test_fields_of_the_wrong_kind():
    with pytest.raises(ValueError, match=r"density='much' must lie in \(0, 1\]"):
        codec.decode({"pattern": "diagonal.Diagonal", "density": "much"})


FIELDS = {
    AdaSpa: dict(density=0.2, block=64, head_adaptive=True, recall_threshold=0.8,
                 text_in_budget=False, lse_cache=True),
    Diagonal: dict(density=0.25, block=64),
    MultiDiagonal: dict(density=0.25, block=64),
    VerticalStripe: dict(density=0.25, block=64, columns=(1, 2)),
    SlidingTile: dict(tile=(2, 2, 2), window=(1, 1, 3), even_window="paper"),
    Table: dict(library=(Dense(), Skip()), choice=((0, 1),)),
    PerHead: dict(groups=((Dense(), (0,)),)),
    VideoGrid: dict(frames=1, height=2, width=3, text_len=4, text_first=False),
    StepSchedule: dict(num_steps=5, dense_steps=1, search_steps=(2,), first_step=1, dense_last_steps=1,
                       density=(0.5,) * 5),
    TokenOrder: dict(grid=VideoGrid(1, 2, 3), block=8, tile=(2, 2, 2), axes=(0, 1, 2)),
    SparseAttention: dict(patterns=(Dense(),), schedule=StepSchedule(), grid=None, num_heads=2),
}  # fmt: skip
ODD = (math.nan, -1, 1.5, np.float32("nan"), "1", b"1", object(), (1.5, 1, 1), (True, 1, 1), ((0.5, 1),),
       ((Dense(), (0.7,)),), (math.nan,), (None,) * 3, [[1, 1, 1], [1, 1, "1"]])  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, fields in FIELDS.items() for name in fields]
)
def test_a_field_takes_no_value_of_another_kind(kind, name):
    fields = FIELDS[kind]
    kind(**fields)
    for value in ODD:
        with pytest.raises(ValueError, match=r"must|groups|library|lie outside"):
            kind(**fields | {name: value})
    if not isinstance(fields[name], bool):
        with pytest.raises(ValueError, match=r"must|groups|library|lie outside"):
            kind(**fields | {name: True})


@pytest.mark.parametrize("kind", FIELDS)
def test_numpy_s_numbers_are_kept_as_python_s_and_can_be_written(kind):
    made = kind(**{name: _with_numpy(value) for name, value in FIELDS[kind].items()})
    plain = kind(**FIELDS[kind])
    assert made == plain
    assert repr(made) == repr(plain)
    assert hash(made) == hash(plain)


def _with_numpy(value):
    if isinstance(value, tuple):
        return [_with_numpy(v) for v in value]
    scalar = {bool: np.bool_, int: np.int64, float: np.float64}.get(type(value))
    return value if scalar is None else scalar(value)
