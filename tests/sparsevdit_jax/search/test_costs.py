import dataclasses
import json

import jax
import numpy as np
import pytest

from sparsevdit_jax import AttentionPattern, StepContext, StepSchedule, VideoGrid, metrics
from sparsevdit_jax.patterns import (
    AdaSpa,
    Dense,
    Diagonal,
    PerHead,
    Skip,
    SlidingTile,
    Table,
    VerticalStripe,
)
from sparsevdit_jax.search import costs
from sparsevdit_jax.search.costs import Cost, CostTable, Measurement, Timing

GRID = VideoGrid(4, 8, 8, text_len=8)
SHAPE = dict(num_heads=4, head_dim=16, dtype="bfloat16", device="toy")
KIND = "diagonal.Diagonal"
POINTS = ((0.2, 2.0), (0.6, 5.0), (0.8, 9.0))  # density, ms; dense takes 10


def measurement(points=POINTS, kind=KIND, **changes):
    fields = dict(
        device="toy",
        implementation=None,
        dtype="bfloat16",
        tokens=GRID.num_tokens,
        num_heads=4,
        head_dim=16,
        batch=2,
        environment=(("jax", "0.0"), ("processor", "toy")),
        dense_ms=10.0,
        timings=tuple(Timing(kind, 64, d, ms) for d, ms in points),
    )
    return Measurement(**{**fields, **changes})


@dataclasses.dataclass(frozen=True)
class Elsewhere(Diagonal):
    """A pattern of another package."""


class Blockless(AttentionPattern):
    def init(self, grid, *, batch, num_heads, head_dim):
        return ()

    def attend(self, q, k, v, state, ctx):
        return q, state


def cost_at(density, table, monkeypatch):
    monkeypatch.setattr(costs, "head_densities", lambda pattern, grid, heads: (density,) * heads)
    return table.relative(Diagonal(), GRID, **SHAPE)


@pytest.mark.parametrize(
    ("density", "expected"),
    [
        (0.2, 0.2),
        (0.3, 0.275),
        (0.7, 0.7),
        (0.05, 0.2),  # a launch is not free
        (0.9, 1.1),  # the last segment goes on, above dense too
    ],
)
def test_costs_between_and_beyond_measured_densities(density, expected, monkeypatch):
    cost = cost_at(density, CostTable((measurement(),)), monkeypatch)
    assert cost.measured
    assert cost.value == pytest.approx(expected)


def test_the_cost_above_the_range_never_falls(monkeypatch):
    table = CostTable((measurement(((0.5, 7.0), (0.6, 6.0))),))
    assert cost_at(0.9, table, monkeypatch).value == pytest.approx(0.6)
    assert cost_at(0.9, CostTable((measurement(((0.5, 7.0),)),)), monkeypatch).value == 0.7


def test_two_timings_of_one_density_are_averaged():
    densities, ratios = measurement(((0.5, 7.0), (0.2, 2.0), (0.5, 5.0))).curve(KIND, 64)
    np.testing.assert_allclose(densities, [0.2, 0.5])
    np.testing.assert_allclose(ratios, [0.2, 0.6])


def test_dense_and_skip_are_the_units():
    for table in (CostTable(), CostTable((measurement(),))):
        found = bool(table.measurements)
        assert table.relative(Dense(), GRID, **SHAPE) == Cost(1.0, found)
        assert table.relative(Skip(), GRID, **SHAPE) == Cost(0.0, found)


@pytest.mark.parametrize(
    "change",
    [
        {"device": "other"},
        {"implementation": "xla"},
        {"dtype": "float32"},
        {"tokens": 8},
        {"num_heads": 2},
        {"head_dim": 32},
        {"timings": ()},
        {"timings": (Timing(KIND, 128, 0.2, 2.0),)},
        {"timings": (Timing("diagonal.MultiDiagonal", 64, 0.2, 2.0),)},
    ],
)
def test_what_was_not_measured_costs_its_density(change):
    pattern = Diagonal(density=0.5, block=64)
    cost = CostTable((measurement(**change),)).relative(pattern, GRID, **SHAPE)
    density = metrics.density(pattern, GRID, num_heads=4).mean()
    assert cost == Cost(pytest.approx(float(density)), False)


def test_another_canvas_with_as_many_tokens_shares_the_times():
    table, pattern = CostTable((measurement(),)), Diagonal(density=0.5)
    assert table.relative(pattern, VideoGrid(8, 8, 4, text_len=8), **SHAPE).measured
    assert not table.relative(pattern, VideoGrid(8, 8, 8, text_len=8), **SHAPE).measured


def test_the_batch_is_the_fewest_measured_or_the_one_asked_for():
    table = CostTable((measurement(), measurement(batch=4, dense_ms=20.0)))
    default, four, eight = (
        table.relative(Diagonal(density=0.2), GRID, batch=b, **SHAPE) for b in (None, 4, 8)
    )
    assert default.value == pytest.approx(2 * four.value)
    assert four.measured
    assert not eight.measured


def test_the_device_is_jaxs_own_by_default():
    shape = {**SHAPE, "device": None}
    table = CostTable((measurement(device="cpu"),))
    assert table.relative(Diagonal(), GRID, **shape).measured


def test_windows_of_heads_cost_their_mean():
    timings = (Timing("sliding_tile.SlidingTile", 64, 0.3, 1.0),)
    points = (*timings, Timing("sliding_tile.SlidingTile", 64, 1.0, 8.0))
    table = CostTable((measurement(timings=points),))
    narrow, whole = (1, 1, 1), (1, 2, 2)
    mixed = SlidingTile((4, 4, 4), (narrow, narrow, narrow, whole))
    one, all_ = (
        table.relative(SlidingTile((4, 4, 4), w), GRID, **SHAPE).value for w in (narrow, whole)
    )
    assert table.relative(mixed, GRID, **SHAPE).value == pytest.approx((3 * one + all_) / 4)


@pytest.mark.parametrize("text_in_budget", [False, True])
def test_adaspa_counts_what_its_search_keeps(text_in_budget, key):
    pattern = AdaSpa(density=0.5, block=32, text_in_budget=text_in_budget)
    grid = VideoGrid(4, 8, 8, text_len=40)
    order = pattern.token_order(grid)
    state = pattern.init(grid, batch=1, num_heads=4, head_dim=1)
    mass = jax.random.uniform(key, (1, 4, order.num_blocks, order.num_blocks))
    state = dataclasses.replace(state, mask=pattern.choose(mass, StepContext(grid)))
    counted = metrics.density(pattern, grid, num_heads=4, state=state).mean()
    assert np.mean(costs.head_densities(pattern, grid, 4)) == pytest.approx(counted, abs=1e-6)


def test_names_of_kinds():
    assert SlidingTile((4, 4, 4), (1, 1, 1)).block_on(GRID) == 64
    assert Dense().block_on(GRID) == 0


@pytest.mark.parametrize(
    "pattern",
    [
        PerHead.of([Dense(), Skip()]),
        Table((VerticalStripe(), Dense()), ((0, 1),) * StepSchedule().num_steps),
        Blockless(),
    ],
)
def test_mixtures_and_blockless_patterns_are_refused(pattern):
    with pytest.raises(ValueError, match=r"ask for the pattern of each head|chooses no blocks"):
        CostTable().relative(pattern, GRID, **SHAPE)


def test_json_round_trip():
    table = CostTable((measurement(), measurement(dtype="float32", implementation="xla")))
    assert CostTable.from_json(table.to_json()) == table
    assert CostTable.from_json(CostTable().to_json()) == CostTable()


def test_a_measurement_takes_the_place_of_that_of_its_setting():
    table = CostTable((measurement(),)).replace(measurement(dense_ms=3.0))
    assert [m.dense_ms for m in table.measurements] == [3.0]
    assert len(table.replace(measurement(batch=1)).measurements) == 2
    with pytest.raises(ValueError, match=r"measures \('toy', None, .* twice"):
        CostTable((measurement(), measurement(dense_ms=3.0)))


def edited(**changes):
    document = json.loads(CostTable((measurement(),)).to_json())
    return json.dumps({**document, **changes})


def edited_measurement(**changes):
    fields = json.loads(CostTable((measurement(),)).to_json())["measurements"][0]
    return edited(measurements=[{**fields, **changes}])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "format is not 'sparsevdit-jax/costs'"),
        (edited(version=2), "format version 2, this library reads 1; measure again"),
        (edited(more=1), r"the file has unknown fields \['more'\]"),
        (edited(measurements=[3]), "3 must be a Measurement"),
        (edited_measurement(watts=1), r"Measurement has unknown fields \['watts'\]"),
        (edited_measurement(timings=[{"kind": KIND}]), "Timing has unknown fields"),
        (edited_measurement(environment=[]), "environment must be an object"),
        (edited_measurement(dense_ms=0.0), "dense_ms=0.0 must be a positive finite number"),
        (edited_measurement(tokens=2.5), "tokens=2.5 must be a positive finite number"),
        (edited_measurement(timings=[3]), "3 must be a Timing"),
    ],
)
def test_files_that_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        CostTable.from_json(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"density": 1.5}, r"density=1\.5 must lie in \(0, 1\]"),
        ({"density": 0.0}, "density=0.0 must be a positive"),
        ({"latency_ms": float("nan")}, "latency_ms=nan must be a positive finite number"),
        ({"block": True}, "block=True must be a positive"),
    ],
)
def test_timings_that_are_refused(change, message):
    fields = dict(kind=KIND, block=64, density=0.5, latency_ms=1.0)
    with pytest.raises(ValueError, match=message):
        Timing(**{**fields, **change})
