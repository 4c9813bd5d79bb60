import dataclasses

import pytest

from experiments import measure_costs, record
from experiments.measure_costs import Config
from sparsevdit_jax import codec
from sparsevdit_jax.patterns import AdaSpa, Diagonal, SlidingTile, VerticalStripe

TINY = Config(
    grid=(4, 4, 4),
    text=3,
    heads=2,
    head_dim=8,
    batch=1,
    dtypes=("float32",),
    tile=(2, 2, 2),
    block=8,
    densities=(0.2, 0.6),
    rounds=1,
    allow_dirty=True,
)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"densities": (0.5, 2.0)}, r"densities \[2\.0\] must lie in \(0, 1\]"),
        ({"densities": ()}, "there must be one at least"),
        ({"rounds": 0}, "rounds=0 must be at least 1"),
        ({"heads": 0}, "heads=0 must be at least 1"),
        ({"grid": (4, 4, 4), "block": 64}, "block=64 puts all of .* smaller --block"),
    ],
)
def test_bad_flags_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Config(**change)


def test_a_table_that_is_none_is_named_and_kept(tmp_path):
    path = measure_costs.table_path(tmp_path)
    path.write_bytes(b"\xff{")
    with pytest.raises(ValueError, match=r"cpu.json holds no table of costs .*move it away"):
        measure_costs.main(dataclasses.replace(TINY, out=tmp_path, record=False))
    assert path.read_bytes() == b"\xff{"


def test_kinds_and_densities_of_the_candidates(capsys):
    found = list(measure_costs.candidates(TINY))
    kinds = [codec.class_name(type(p)) for p in found]
    assert {kinds.count(k) for k in set(kinds) - {"vertical_stripe.VerticalStripe"}} == {2}
    # A stripe holds the first frame, two of nine blocks, so one of the densities is too low.
    assert [p.density for p in found if isinstance(p, VerticalStripe)] == [0.6]
    assert "left out: density=0.2 keeps" in capsys.readouterr().out
    windows = [p.window for p in found if isinstance(p, SlidingTile)]
    assert windows == [(1, 1, 1), (1, 2, 2)]


def test_the_table_of_a_run_gives_costs_and_is_not_measured_twice(tmp_path, monkeypatch, capsys):
    start = record.Run.start
    monkeypatch.setattr(
        measure_costs.Run, "start", lambda *a, **kw: start(*a, folder=tmp_path, **kw)
    )
    few = [Diagonal(density=0.2, block=8), AdaSpa(density=0.6, block=8)]
    monkeypatch.setattr(measure_costs, "candidates", lambda config: few)
    config = dataclasses.replace(TINY, out=tmp_path / "costs")
    measure_costs.main(config)
    path = measure_costs.table_path(config.out)
    assert path.name == "cpu.json"
    table = measure_costs.read_table(path)
    (measured,) = table.measurements
    assert (measured.tokens, measured.batch, measured.implementation) == (67, 1, None)
    assert dict(measured.environment).keys() == {"jax", "jaxlib", "processor"}
    cost = table.relative(few[0], config.video_grid, num_heads=2, head_dim=8, dtype="float32")
    timing = next(t for t in measured.timings if t.kind == "diagonal.Diagonal")
    assert cost.measured
    assert cost.value == pytest.approx(timing.latency_ms / measured.dense_ms)
    rows = [row["measured"] for row in record.read("measure_costs", folder=tmp_path)]
    assert len(rows) == len(measured.timings) + 1 == 3
    assert [r["cost_ratio"] for r in rows if r["pattern"] == "dense.Dense"] == [1.0]
    before = path.read_bytes()
    measure_costs.main(config)
    assert path.read_bytes() == before
    assert "cpu.json holds this shape in float32" in capsys.readouterr().out
