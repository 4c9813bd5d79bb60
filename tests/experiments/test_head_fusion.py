import dataclasses

import pytest

from experiments import head_fusion, record
from experiments.head_fusion import Config
from sparsevdit_jax.patterns import AdaSpa, Dense, Diagonal, Skip, SlidingTile
from tests.tolerances import assert_at_most

TINY = Config(
    grid=(4, 8, 8),
    text=3,
    heads=2,
    head_dim=8,
    batch=2,
    dtypes=("float32",),
    tile=(2, 2, 2),
    block=8,
    density=0.4,
    rounds=1,
    allow_dirty=True,
)


def test_every_mix_fills_all_heads():
    mixes = head_fusion.mixes(dataclasses.replace(TINY, heads=6))
    assert {len(patterns) for patterns in mixes.values()} == {6}
    assert mixes["a quarter dense"].count(Dense()) == 2
    assert any(isinstance(p, AdaSpa) for p in mixes["AdaSpa and three"])
    assert len(set(mixes["two windows"])) == 2


def test_a_mode_that_does_not_fit_is_refused_before_anything_is_timed(monkeypatch):
    monkeypatch.setattr(head_fusion, "compare", lambda *args: pytest.fail("timed"))
    with pytest.raises(ValueError, match=r"density=0\.01 keeps"):
        head_fusion.main(dataclasses.replace(TINY, heads=4, density=0.01, record=False))


def test_all_ways_agree_and_are_timed():
    patterns = (AdaSpa(density=0.4, block=8), Diagonal(density=0.4, block=8))
    results = head_fusion.compare(patterns, TINY, "float32")
    assert set(results) == {"fused", "per_mode", "per_head"}
    for way, (_, error) in results.items():
        assert_at_most(error, head_fusion.BUDGET["float32"], way)
    assert all(time.latency_ms > 0 for time, _ in results.values())


def test_a_mix_whose_blocks_differ_has_no_table(capsys):
    config = dataclasses.replace(TINY, grid=(3, 8, 8))  # tiles of the last frame are half empty
    patterns = (Diagonal(density=0.4, block=8), SlidingTile((2, 2, 2), (1, 3, 3)))
    assert set(head_fusion.ways(patterns, config)) == {"fused", "per_mode", "per_head"}
    assert "library patterns have blocks of different" in capsys.readouterr().out
    assert "table" in head_fusion.ways(patterns, TINY)


def test_ways_that_differ_are_not_timed(monkeypatch):
    ways = {"fused": (lambda q, k, v, s: q, ()), "table": (lambda q, k, v, s: q + 1.0, ())}
    monkeypatch.setattr(head_fusion, "ways", lambda patterns, config: ways)
    with pytest.raises(RuntimeError, match=r"table differs from fused .* nothing was timed"):
        head_fusion.compare((Dense(), Dense()), TINY, "float32")


def test_records_of_a_run(tmp_path, monkeypatch):
    start = record.Run.start
    monkeypatch.setattr(head_fusion.Run, "start", lambda *a, **kw: start(*a, folder=tmp_path, **kw))
    mixes = {"half skipped": (Dense(), Skip())}
    monkeypatch.setattr(head_fusion, "mixes", lambda config: mixes)
    head_fusion.main(TINY)
    rows = [row["measured"] for row in record.read("head_fusion", folder=tmp_path)]
    assert {row["way"] for row in rows} == {"fused", "table", "per_mode", "per_head"}
    assert [r["latency_over_fused_ratio"] for r in rows if r["way"] == "fused"] == [1.0]
    assert {row["num_modes"] for row in rows} == {2}
