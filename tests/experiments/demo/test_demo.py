"""The demo from weights to page, on a tiny untrained model and a small canvas."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments.demo.__main__ import main
from experiments.demo.methods import per_head_mix, published_methods, warm_up_steps
from experiments.demo.report import COLUMNS, cells
from experiments.demo.runner import Config
from models.checkpoint import save_weights
from models.tiny import TinyConfig
from sparsevdit_jax.patterns import Dense, Diagonal, MultiDiagonal
from sparsevdit_jax.schedule import exact_steps
from tests.models.test_tiny import make_model

SIZES = TinyConfig(dim=64, num_layers=1, num_heads=4, condition_tokens=2)


@pytest.fixture(autouse=True)
def _standard_promotion():
    """The demo is a program, not a package: it may mix dtypes as Python does."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_weights(path, make_model(SIZES), config=dataclasses.asdict(SIZES))
    path.with_suffix(".json").write_text('{"steps": 7}')
    return path


@pytest.fixture
def config(tmp_path, weights):
    return Config(
        out=tmp_path / "demo", weights=weights, steps=5, video=(8, 32, 32), dtype="float32"
    )


def test_the_demo_writes_page_clips_pictures_and_numbers(config, capsys):
    config = dataclasses.replace(config, only=("sta", "adaspa", "per-head"))
    main(config)
    results = json.loads((config.out / "results.json").read_text())
    rows = {row["key"]: row for row in results["methods"]}
    assert list(rows) == ["dense", "sta", "adaspa", "per-head"]
    assert results["settings"]["tokens"] == 4 * 8 * 8 + 2
    assert results["training"]["record"] == {"steps": 7}
    assert rows["dense"]["speedup_attention"] == 1
    for key, row in rows.items():
        assert 0 < row["density"] <= 1
        assert 0 < row["recall"] <= 1 + 1e-5
        assert (row["psnr_db"] is None) == (key == "dense")
        for name in ("gif", "sheet", "video", "difference"):
            assert row[name] is None or (config.out / row[name]).stat().st_size > 100
    assert rows["adaspa"]["phases"] == {"search": 2, "reuse": 3}
    assert np.shape(results["heads"]["sta"]["recall"]) == (1, 4)
    assert len(results["pictures"]) >= 6
    for picture in results["pictures"]:
        assert (config.out / picture["file"]).stat().st_size > 100
    assert "STA" in (config.out / "index.html").read_text()
    assert "Sparse-vDiT per head" in capsys.readouterr().out


def test_only_an_earlier_demo_is_replaced(config):
    config = dataclasses.replace(config, only=("sta",))
    config.out.mkdir()
    (config.out / "thesis.tex").write_text("three years of work")
    with pytest.raises(ValueError, match=r"holds no earlier demo's results\.json; choose another"):
        main(config)
    assert (config.out / "thesis.tex").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(digit=11), r"digit=11 must be one of 0 to 9"),
        (dict(steps=3), r"steps=3 must be at least 5"),
    ],
)
def test_flags_are_checked(config, change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(config, **change)


def test_a_missing_checkpoint_and_an_unknown_method_are_named(config, tmp_path):
    with pytest.raises(FileNotFoundError, match="no weights at"):
        main(dataclasses.replace(config, weights=tmp_path / "none.safetensors"))
    with pytest.raises(ValueError, match=r"only=\['stars'\] names no method; choose from \['sta'"):
        main(dataclasses.replace(config, only=("stars",)))


def test_every_method_has_the_same_exact_steps():
    for steps in (5, 30, 50):
        for method in published_methods(2, steps)[1:]:
            assert exact_steps(method.attention.schedule) == warm_up_steps(steps), method.key
    adaspa = next(m for m in published_methods(2, 50) if m.key == "adaspa")
    assert adaspa.attention.schedule.search_steps == (10, 30)  # the paper's


def test_heads_get_their_best_mode_and_the_worst_stay_dense():
    near, site = Diagonal(), MultiDiagonal()
    recalls = {
        near: [np.array([0.9, 0.1]), np.array([0.5, 0.4])],
        site: [np.array([0.2, 0.15]), np.array([0.6, 0.3])],
    }
    first, second = per_head_mix(recalls, 10, dense_share=0.25).patterns
    assert {h: p for p, heads in first.groups for h in heads} == {0: near, 1: Dense()}
    assert {h: p for p, heads in second.groups for h in heads} == {0: site, 1: near}


def test_a_row_has_a_cell_for_every_column():
    quality = dict(density=0.25, recall=0.5, psnr_db=None, ssim=1.0)
    times = dict(attention_ms=10.4, step_ms=20.0)
    speed = dict(speedup_attention=2.0, speedup_step=1.5, speedup_run=1.25)
    row = quality | times | speed
    assert cells(row) == ["0.250", "0.500", "–", "1.0000", "10", "20", "2.00", "1.50", "1.25"]
    assert len(COLUMNS) == len(cells(row))
