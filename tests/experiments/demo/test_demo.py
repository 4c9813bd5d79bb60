"""The demo from weights to page, on a tiny untrained model and a small canvas."""

import dataclasses
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from experiments.demo import __main__ as demo
from experiments.demo.__main__ import main
from experiments.demo.methods import per_head_mix, published_methods, warm_up_steps
from experiments.demo.report import COLUMNS, cells
from experiments.demo.runner import Config
from models.checkpoint import save_weights
from models.tiny import TinyConfig
from sparsevdit_jax import VideoGrid
from sparsevdit_jax.patterns import Dense, Diagonal, MultiDiagonal
from sparsevdit_jax.schedule import exact_steps
from tests.models.test_tiny import make_model

SIZES = TinyConfig(dim=64, num_layers=1, num_heads=4, condition_tokens=2)
ROW = dict(density=0.25, recall=0.5, psnr_db=None, ssim=1.0, output_error=0.0, step_ms=20.0,
           speedup_step=1.5, speedup_run=1.25)  # fmt: skip


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
    config.out.mkdir()
    (config.out / "thesis.tex").write_text("three years of work")
    with pytest.raises(ValueError, match=r"holds no earlier demo's results\.json; choose another"):
        main(config)
    assert (config.out / "thesis.tex").exists()


class StandIn:
    """Takes the place of `Runner`: black clips at once, and Ctrl-C at a method."""

    stops_at: str | None = None

    def __init__(self, config, model):
        self.config, self.model, self.grid = config, model, VideoGrid(4, 8, 8, text_len=2)
        self.probe_step, self.kept = 0, [None]

    def run(self, method):
        if method.key == self.stops_at:
            raise KeyboardInterrupt
        return dict(clip=np.zeros((4, 8, 8, 1), np.float32))


@pytest.fixture
def quick(monkeypatch):
    """The demo without its model: nothing is denoised or measured."""

    def describe(method, *_):
        return dict(ROW, key=method.key, label=method.label), {}

    def write_clip(folder, name, *_):
        (folder / f"{name}.gif").write_text("clip")
        return {"gif": f"{name}.gif"}

    stubs = dict(
        Runner=StandIn,
        load_model=lambda _: (SimpleNamespace(config=SIZES), "float32"),
        count_parameters=lambda _: 1,
        layer_inputs=lambda *_: [()],
        describe=describe,
        write_clip=write_clip,
    )
    for name, stub in stubs.items():
        monkeypatch.setattr(demo, name, stub)
    monkeypatch.setattr(demo.pictures, "draw_all", lambda *_: [])
    monkeypatch.setattr(demo.measure, "attention_times", lambda ms, *_: {m.key: 1.0 for m in ms})


@pytest.fixture
def earlier(config):
    """The results of an earlier demo."""
    config.out.mkdir()
    path = config.out / "results.json"
    path.write_text('{"methods": [], "seed": 1}')
    return path


def methods_in(folder):
    return [row["key"] for row in json.loads((folder / "results.json").read_text())["methods"]]


@pytest.mark.usefixtures("quick")
def test_an_interrupt_keeps_the_earlier_demo_and_the_finished_clips(
    config, earlier, monkeypatch, capsys
):
    config, new = (
        dataclasses.replace(config, only=("sta", "adaspa")),
        config.out.with_name("demo.new"),
    )
    monkeypatch.setattr(StandIn, "stops_at", "adaspa")
    with pytest.raises(SystemExit, match=r"^interrupted: .* is as it was; .* is in .*demo\.new$"):
        main(config)
    assert json.loads(earlier.read_text())["seed"] == 1
    assert methods_in(new) == ["dense", "sta"]
    assert (new / "sta.gif").exists()
    monkeypatch.setattr(StandIn, "stops_at", None)
    main(config)
    assert methods_in(config.out) == ["dense", "sta", "adaspa"]
    assert not new.exists()
    assert "replaced the earlier demo in" in capsys.readouterr().out


def test_an_earlier_demo_survives_a_canvas_that_does_not_divide(config, earlier):
    with pytest.raises(ValueError, match=r"\(8, 30, 32\) pixels does not divide into patches"):
        main(dataclasses.replace(config, video=(8, 30, 32)))
    assert json.loads(earlier.read_text())["seed"] == 1
    assert not config.out.with_name("demo.new").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(digit=11), r"digit=11 must be one of 0 to 9"),
        (dict(steps=3), r"steps=3 must be at least 5"),
        (dict(seed=-1), r"seed=-1 must lie in 0 to"),
        (dict(guidance=float("nan")), r"guidance=nan must be a finite number"),
        (dict(only=("stars",)), r"only=\['stars'\] names no method; choose from \['sta'"),
    ],
)
def test_flags_are_checked(config, change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(config, **change)


def test_a_missing_checkpoint_is_named(config, tmp_path):
    with pytest.raises(FileNotFoundError, match="no weights at"):
        main(dataclasses.replace(config, weights=tmp_path / "none.safetensors"))


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
    row = dict(ROW, attention_ms=10.4, speedup_attention=2.0)
    assert cells(row) == ["0.250", "0.500", "–", "1.0000", "10", "20", "2.00", "1.50", "1.25"]
    assert len(COLUMNS) == len(cells(row))
