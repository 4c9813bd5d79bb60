import shutil

import numpy as np
import pytest

from experiments import record
from experiments.methods import vectors
from sparsevdit_jax.patterns import SVG2, Dense, Radial, SlidingTile


def test_families_that_a_class_takes_part_in():
    assert vectors.families_of(SVG2) == {"svg2_"}
    assert {"sta_", "sta_maskonly"} <= vectors.families_of(SlidingTile)
    assert vectors.families_of(Radial) == {"radial_masks", "radial_attn"}
    assert not vectors.families_of(Dense)


def test_a_record_for_each_file_that_agrees(tmp_path):
    shutil.copy(vectors.GOLDEN / "sta_axis_rule.npz", tmp_path)
    np.savez(tmp_path / "new_method_1.npz", x=np.zeros(1))
    run = record.Run.start(vectors.NAME, {}, allow_dirty=True, folder=tmp_path)
    vectors.log(run, {"svg2_"}, tmp_path)
    assert not run.path.exists()
    vectors.log(run, {"sta_axis_rule"}, tmp_path)
    (row,) = (row["measured"] for row in record.read(vectors.NAME, folder=tmp_path))
    assert row["file"] == "sta_axis_rule"
    assert row["family"] == "sta_axis_rule"
    assert row["compared"] == row["exact"] > 0
    assert row["worst"] == ""
    assert row["worst_share"] == 0
    np.savez(tmp_path / "sta_axis_rule_less.npz", columns=np.zeros(1))
    with pytest.raises(ValueError, match=r"sta_axis_rule_less.*a page says only what holds"):
        vectors.log(run, {"sta_axis_rule"}, tmp_path)
