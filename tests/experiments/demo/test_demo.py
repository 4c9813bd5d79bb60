"""The demo from weights to page, on a tiny untrained model and a small canvas."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from experiments.demo import __main__ as demo
from experiments.demo import clips
from experiments.demo.__main__ import main
from experiments.demo.clip_runner import Config
from experiments.demo.compared_methods import (
    KEYS,
    SEARCHED,
    SHOWN,
    per_head_mix,
    published_methods,
    searched_mixture,
    warm_up_steps,
)
from experiments.demo.comparison import COLUMNS, cell, print_table
from experiments.demo.plan import plan_of
from experiments.readme_tables import demo_table
from experiments.record import Run, read
from models.tiny import TinyConfig, save_tiny
from sparsevdit_jax import SparseAttention, VideoGrid
from sparsevdit_jax.patterns import Dense, Diagonal, MultiDiagonal
from sparsevdit_jax.schedule import exact_steps
from tests.models.test_tiny import make_model

# The windows are those of the demo's canvas, which is larger.
pytestmark = pytest.mark.filterwarnings("ignore:SlidingTile window")


SIZES = TinyConfig(dim=64, num_layers=1, num_heads=4, condition_tokens=2)


@pytest.fixture(autouse=True)
def _standard_promotion():
    """The demo is a program, not a package: it may mix dtypes as Python does."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_tiny(path, make_model(SIZES))
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
    for key, row in rows.items():
        assert 0 < row["density"] <= 1
        assert 0 < row["recall"] <= 1 + 1e-5
        assert (row["psnr_db"] is None) == (key == "dense")
        for name in ("step_ms", "attention_ms", "run_s"):
            assert 0 < row[name]["low"] <= row[name]["median"] <= row[name]["high"]
        assert ("speedup_step" in row) == (key != "dense")
        for name in ("gif", "sheet", "video", "difference"):
            assert row[name] is None or (config.out / row[name]).stat().st_size > 100
    assert rows["adaspa"]["phases"] == {"first search": 1, "search": 1, "reuse": 3}
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
        self.probe_step, self.probe_time, self.kept, self.states = 0, 1.0, [None], {}
        self.stopped = False

    def run(self, method, advance):
        if method.key == self.stops_at:
            raise KeyboardInterrupt
        self.states[method.key] = ((),) * SIZES.num_layers
        return np.zeros((4, 8, 8, 1), np.float32)


@pytest.fixture
def quick(monkeypatch):
    """The demo without its model: nothing is denoised or measured."""

    def write_clip(folder, name, *_):
        (folder / f"{name}.gif").write_text("clip")
        return {"gif": f"{name}.gif"}

    def clip_row(method, *_):
        return dict(key=method.key, label=method.label, psnr_db=None, ssim=1.0, phases={})

    monkeypatch.setattr(clips, "write_clip", write_clip)
    monkeypatch.setattr(clips, "clip_row", clip_row)
    monkeypatch.setattr(clips, "TOGETHER", 1)
    stubs = dict(
        Runner=StandIn,
        load_model=lambda _: (SimpleNamespace(config=SIZES, num_parameters=1), "float32"),
        layer_inputs=lambda *_: [()],
        head_masks=lambda *_, **__: [],
        quality=lambda *_: ({}, {}),
        draw_all=lambda *_: [],
        measure_times=lambda _, methods, *__: {m.key: {} for m in methods},
    )
    for name, stub in stubs.items():
        monkeypatch.setattr(demo, name, stub)


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(digit=11), r"digit=11 must be one of 0 to 9"),
        (dict(video=(10**5,) * 3), "must hold at most 64 times the pixels of"),
        (dict(seed=-1), r"seed=-1 must lie in 0 to"),
        (dict(guidance=float("nan")), r"guidance=nan must be a finite number"),
        (dict(only=("stars",)), r"only=\['stars'\] names no method; choose from \['sta'"),
        (dict(only=("sta", "dense")), r"only=\['dense'\] names no method"),
        (dict(only=("sta",), all=True), r"--all runs every method and only=\['sta'\] a few"),
        (dict(steps=0), r"steps=0 must lie in 5"),
    ],
)
def test_flags_are_checked(config, change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(config, **change)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(weights=Path("none.safetensors")), FileNotFoundError, "no weights at none"),
        (dict(weights=Path(__file__)), ValueError, "is not a whole safetensors file"),
        (dict(video=(8, 30, 32)), ValueError, "does not divide into patches"),
        (dict(only=("mixture",)), ValueError, "these patterns were made for"),
        (dict(only=("per-head",), video=(8, 16, 32)), ValueError, "height=16 is smaller than"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_made(
    config, earlier, monkeypatch, change, error, message
):
    monkeypatch.setattr(demo, "load_model", None)  # which measures the machine and compiles
    with pytest.raises(error, match=message) as raised:
        main(dataclasses.replace(config, **change))
    assert "\n" not in str(raised.value)
    assert json.loads(earlier.read_text())["seed"] == 1
    assert not config.out.with_name("demo.new").exists()


def test_the_methods_of_a_call(config, capsys):
    assert Config().keys == SHOWN
    assert Config(all=True).keys == KEYS
    assert (Config().steps, Config(all=True).steps, Config(all=True, steps=9).steps) == (8, 30, 9)
    assert dataclasses.replace(config, only=("per-head", "sta")).keys == ("sta", "per-head")
    assert plan_of(Config()).keys == SHOWN
    assert capsys.readouterr().out == ""
    assert plan_of(config).keys == ("sta", "adaspa", "per-head")
    assert "without the searched mixture: these patterns were made for" in capsys.readouterr().out


def test_the_mixture_has_the_schedule_that_it_was_searched_with():
    found = SparseAttention.from_json(SEARCHED.read_text())
    sizes = dict(grid=found.grid, num_layers=found.num_layers, num_heads=found.num_heads)
    assert searched_mixture(15, **sizes).attention == found
    for steps in (5, 6, 8, 10, 30, 50):
        attention = searched_mixture(steps, **sizes).attention
        assert attention.patterns == found.patterns
        assert attention.schedule.dense_steps == warm_up_steps(steps)
        assert len(attention.schedule.search_steps) == 2


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


ROW = dict(
    label="STA",
    density=0.25,
    recall=0.5,
    psnr_db=None,
    ssim=1.0,
    step_ms=dict(median=20.4, low=20.0, high=21.0),
    speedup_attention=dict(median=2.0, low=1.9, high=2.2),
    speedup_step=dict(median=1.5, low=1.1, high=2.0),
    speedup_run=dict(median=1.01, low=0.9, high=1.1),
)


def test_a_row_has_a_cell_for_every_column():
    shown = [cell(ROW, field) for field in COLUMNS.values()]
    assert shown == ["0.250", "0.500", "–", "1.0000", "20", "2.00 (1.90–2.20)", "faster", "unclear"]
    assert cell({}, "speedup_step") == "–"


def test_the_terminal_says_what_its_words_mean(capsys):
    print_table([ROW], 5)
    printed = capsys.readouterr().out
    assert "2.00 (1.90–2.20)" in printed
    assert "faster: than dense in every round" in printed
    assert "unclear: in one round at least too near to dense" in printed
    assert "slower:" not in printed
    print_table([ROW | dict(step_ms=dict(median=20.4, low=20.0, high=61.0))], 5)
    assert "unsteady: the time differs too much" in capsys.readouterr().out


def test_a_record_holds_medians_and_ranges(tmp_path):
    run = Run.start("demo", Config(), allow_dirty=True, folder=tmp_path)
    row = ROW | dict(density_run=0.4, output_error=0.1, attention_ms=ROW["step_ms"])
    settings = dict(tokens=9, dtype="float32", rounds=5)
    demo.record_rows(run, [row], settings)
    (found,) = read("demo", folder=tmp_path)
    wanted = {"step_ms": 20.4, "step_low_ms": 20.0, "step_high_ms": 21.0,
              "run_speedup": 1.01, "run_low_speedup": 0.9, "run_high_speedup": 1.1}  # fmt: skip
    assert wanted.items() <= found["measured"].items()
    assert (
        "| STA | 0.250 | 0.500 | – | 1.000 | 2.00 (1.90–2.20) | faster | unclear |"
        in demo_table(tmp_path)
    )
