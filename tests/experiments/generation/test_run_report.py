"""Timings and comparisons of a run."""

import json

import numpy as np
import pytest

from experiments.generation.run_report import balance, compare, timing, write_report
from sparsevdit_jax import SparseAttention, VideoGrid
from sparsevdit_jax.patterns import AdaSpa, SlidingTile

DENSE = [("dense", 1.0)] * 4
SPARSE = [("dense", 1.0), ("reuse", 0.5), ("reuse", 0.3), ("reuse", 0.2)]


def test_phases_are_timed_by_themselves():
    rows = timing(SPARSE)
    assert rows["dense"] == {"steps": 1, "total_s": 1.0, "median_ms": 1000.0}
    assert rows["reuse"] == pytest.approx({"steps": 3, "total_s": 1.0, "median_ms": 300.0})
    assert timing(DENSE)["dense"]["steps"] == 4


def test_videos_are_compared_in_eight_bits():
    rng = np.random.default_rng(0)
    dense = rng.integers(20, 200, (3, 16, 24, 3)).astype(np.uint8)
    found = compare(dense + np.uint8(10), dense, {"dense": DENSE, "sta": SPARSE}, "sta", 4)
    assert found["psnr_db"] == pytest.approx(10 * np.log10(255**2 / 100), abs=1e-4)
    assert 0.5 < found["ssim"] < 1
    assert found["speedup"] == pytest.approx(2.0)


def test_a_run_that_was_resumed_has_no_speed_up():
    video = np.zeros((1, 12, 12, 3), np.uint8)
    for phases in ({"dense": DENSE, "sta": SPARSE[2:]}, {"dense": DENSE[1:], "sta": SPARSE[1:]}):
        assert compare(video, video, phases, "sta", 4)["speedup"] is None


def test_a_report_says_where_it_ran(tmp_path):
    write_report(tmp_path / "r.json", {"model": tmp_path}, {"seconds": {"text": 1.0}})
    document = json.loads((tmp_path / "r.json").read_text())
    assert document["config"]["model"] == str(tmp_path)
    assert document["seconds"] == {"text": 1.0}
    assert "jax" in json.dumps(document["environment"])


def test_balance_of_heads_that_keep_different_shares():
    grid = VideoGrid(4, 4, 4)
    windows = SlidingTile((2, 2, 2), ((2, 2, 2), (2, 2, 2), (1, 1, 1), (1, 1, 1)))
    uneven = SparseAttention.uniform(windows, 2)
    assert balance(uneven, grid, 4, 2) == (
        "4 heads assigned to 2 devices by work: the busiest has 1.00 of the mean (1.78 in the order of their "
        "numbers)"
    )
    searched = SparseAttention.uniform(AdaSpa(), 2)
    assert balance(searched, grid, 4, 2) == "4 heads on 2 devices"
    assert balance(uneven, grid, 4, 8) == "4 heads on 8 devices"
