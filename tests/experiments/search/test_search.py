"""Whole searches on tiny random models of every family, from prompt to attention."""

import dataclasses
import functools
import json
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from experiments.search import subjects
from experiments.search.__main__ import main
from experiments.search.settings import Config, candidates_of, default_windows, schedule_of
from experiments.search.task import make_task
from models.text_embeddings import TextEmbeddings, save_embeddings
from sparsevdit_jax import SparseAttention, StepSchedule, VideoGrid, codec, metrics
from sparsevdit_jax.fastvideo import from_strategy
from sparsevdit_jax.offline.costs import CostTable, Measurement, Timing
from sparsevdit_jax.offline.measurements import Measurements
from sparsevdit_jax.patterns import AdaSpa, Dense, Diagonal, MultiDiagonal, Skip, SlidingTile

from ..generation import folders

METHODS = {
    "sta": dict(windows=((1, 1, 3), (1, 3, 1), (3, 1, 1)), dense_steps=0),
    "sparse-vdit": dict(density=0.6, rounds=1, dense_steps=0, relative=True),
    "mixture": dict(density=0.5, dense_steps=0, held_out=1),
}
MIXED = (
    Skip(),
    Dense(),
    Diagonal(0.3, 6),
    AdaSpa(0.2, 6, False),
    SlidingTile((1, 2, 3), (1, 1, 3)),
)
SMALL = dict(steps=2, tile=(1, 2, 3), block=6, dtype="float32", save_every=1)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Flags that name a model and its prompts, of each family."""
    prompts = dict(prompts=("a cat rides a skateboard", "two dogs watch the rain"))
    size = dict(frames=9, height=64, width=96)
    root = tmp_path_factory.mktemp("checkpoints")
    texts = []
    for i in range(2):
        random = np.random.default_rng(i).standard_normal
        text = TextEmbeddings(
            prompt_embeds=random((1, 5, folders.TEXT_DIM), np.float32),
            pooled_projections=random((1, 12), np.float32),
            prompt_attention_mask=np.array([[1, 1, 1, 1, i]], np.int32),
        )
        texts.append(root / f"text{i}.npz")
        save_embeddings(texts[-1], text)
    return {
        "wan": dict(model=folders.wan(root / "wan"), **size, **prompts),
        "hunyuan_video": dict(
            model=folders.hunyuan_video(root / "hunyuan"), **size, embeddings=tuple(texts)
        ),
        "cogvideox": dict(model=folders.cogvideox(root / "cogvideox"), **size, **prompts),
    }


@pytest.mark.parametrize(
    ("method", "family"),
    # What a family changes (its grid, its text, its two rows) is the same for all methods.
    [
        ("sta", "wan"),
        ("sparse-vdit", "hunyuan_video"),
        ("mixture", "cogvideox"),
        ("mixture", "wan"),
    ],
)
def test_searches_take_every_family(method, family, checkpoints, tmp_path):
    flags = {**SMALL, **METHODS[method], **checkpoints[family]}
    if method == "mixture":
        flags["candidates"] = tmp_path / "candidates.json"
        flags["candidates"].write_text(json.dumps(codec.encode(MIXED)))
    choice = main(Config(method=method, out=tmp_path, **flags))
    report = json.loads((tmp_path / "report.json").read_text())
    attention = SparseAttention.from_json((tmp_path / "attention.json").read_text())
    assert attention == choice.attention
    assert attention.schedule == schedule_of(Config(method=method, **METHODS[method]), 2)
    assert abs(sum(row["share"] for row in report["candidates"]) - 1) < 1e-9
    assert 0 < report["chosen_error"]["calibration_error"] < np.inf
    assert not list(tmp_path.glob("*.run.safetensors*"))
    assert (tmp_path / "search_chosen.png").stat().st_size > 1000
    if method == "sta":
        found = from_strategy(
            (tmp_path / "strategy.json").read_text(),
            attention.grid,
            tile=(1, 2, 3),
            made_for=attention.grid,
        )
        assert found.schedule == attention.schedule
        assert [named(t) for t in found.patterns] == [named(t) for t in attention.patterns]
    if method == "sparse-vdit":
        heads = choice.choice.size
        assert 0.6 - 1e-9 <= report["density"] <= 0.6 + 1 / heads + 1e-9
    if method == "mixture":
        assert report["density"] <= 0.5 + 1e-9
        for row in report["comparison"]["singles"]:
            single, mixed = row["single"], row["mixture"]
            assert mixed["cost_ratio"] <= single["cost_ratio"] * (1 + 1e-9)
            assert mixed["calibration_error"] <= single["calibration_error"] * (1 + 1e-9)
            assert np.isfinite(mixed["held_out_error"])


def named(table):
    """The table with patterns in place of their indices."""
    return [[table.library[i] for i in row] for row in table.choice]


class Interrupted(Exception):
    pass


def test_an_interrupted_search_goes_on_in_the_middle_of_a_run(checkpoints, tmp_path, monkeypatch):
    flags = {**SMALL, **METHODS["sta"], **checkpoints["wan"], "steps": 3, "dense_steps": 1}
    config = Config(method="sta", out=tmp_path, **flags)
    whole = main(dataclasses.replace(config, out=tmp_path / "whole"))
    add, steps = Measurements.add, []

    def stop_at(prompt, step):
        def stopping(self, *at):
            steps.append(at[:2])
            if at[:2] == (prompt, step):
                raise Interrupted
            add(self, *at)

        monkeypatch.setattr(Measurements, "add", stopping)

    stop_at(1, 2)
    with pytest.raises(Interrupted):
        main(config)
    assert steps == [(0, 1), (0, 2), (1, 1), (1, 2)]
    steps.clear()
    stop_at(None, None)
    again = main(config)
    assert steps == [(1, 2)]  # neither the first prompt nor the step before is run again
    np.testing.assert_array_equal(again.choice, whole.choice)
    files = [
        np.load(folder / "measurements.npz")["error"] for folder in (tmp_path, tmp_path / "whole")
    ]
    np.testing.assert_array_equal(*files)
    with pytest.raises(ValueError, match="steps: 3 there, 4 here"):
        main(dataclasses.replace(config, steps=4))


def test_the_tiny_model_is_searched_the_same_way_and_recorded(tmp_path, monkeypatch):
    from experiments.search import __main__ as command

    monkeypatch.setattr(command, "RESULTS", tmp_path)
    flags = dict(prompts=("2", "7"), frames=4, height=16, width=16, steps=3, dense_steps=1)
    choice = main(
        Config(
            method="sta",
            tile=(1, 2, 2),
            windows=((2, 1, 1), (1, 2, 2)),
            out=tmp_path / "out",
            **flags,
        )
    )
    assert choice.attention.grid == VideoGrid(2, 4, 4, text_len=8)
    assert choice.choice.shape == (2, 6, 4)


@pytest.mark.parametrize(
    ("steps", "dense", "phases"),
    [
        (5, 2, "ddfrr"),
        (15, 3, "dddfrrrrsrrrrrr"),
        (50, None, "d" * 10 + "f" + "r" * 18 + "s" + "r" * 20),
        (2, 0, "fr"),
        (2, 1, "df"),
    ],
)
def test_a_mixture_searches_after_the_steps_that_are_exact_for_all(steps, dense, phases):
    config = Config(method="mixture", density=0.2, dense_steps=dense)
    schedule = schedule_of(config, steps)
    assert "".join(phase.value[0] for phase in schedule.phases()) == phases


def test_default_windows_are_the_papers_on_its_canvas_and_fit_any():
    assert default_windows((5, 6, 10)) == ((5, 3, 3), (3, 3, 5), (1, 6, 10), (5, 6, 1), (5, 1, 10))
    for tiles in ((1, 1, 1), (2, 1, 7), (4, 4, 4)):
        assert all(
            1 <= w <= n
            for window in default_windows(tiles)
            for w, n in zip(window, tiles, strict=True)
        )


@pytest.mark.parametrize(
    "grid", [VideoGrid(1, 9, 9), VideoGrid(3, 4, 6, 9, True), VideoGrid(16, 16, 16, 8)]
)
@pytest.mark.parametrize("method", list(METHODS))
def test_default_candidates_fit_any_canvas(method, grid):
    candidates = candidates_of(Config(method=method, density=0.5), grid)
    densities = [metrics.density(p, grid, num_heads=1)[0] for p in candidates]
    assert len(set(candidates)) == len(candidates) >= 3
    assert min(densities) >= 0
    assert max(densities) <= 1


def test_measured_costs_take_the_place_of_densities(tmp_path):
    subject = SimpleNamespace(grid=VideoGrid(3, 4, 6), num_heads=2, head_dim=16)
    setting = dict(implementation=None, dtype="float32", tokens=72, num_heads=2, head_dim=16)
    timing = Timing("diagonal.Diagonal", 6, 0.3, latency_ms=5.0)
    measured = Measurement(
        device=jax.devices()[0].device_kind,
        batch=2,
        environment=(),
        dense_ms=10.0,
        timings=(timing,),
        **setting,
    )
    path = tmp_path / "costs.json"
    path.write_text(CostTable((measured,)).to_json())
    config = Config(method="mixture", density=0.5, dtype="float32", costs=path)
    task = make_task(config, subject, (Dense(), Skip(), Diagonal(0.3, 6)), StepSchedule(3))
    np.testing.assert_allclose(task.costs, [1, 0, 0.5])
    np.testing.assert_allclose(task.densities[:2], [1, 0])
    with pytest.raises(ValueError, match=r"1 of 1 candidates \(MultiDiagonal.*measure_costs"):
        make_task(config, subject, (MultiDiagonal(0.3, 6),), StepSchedule(3))
    path.write_text("{")
    with pytest.raises(ValueError, match=r"costs.json holds no table of costs .*measure again"):
        make_task(config, subject, (Dense(), Skip()), StepSchedule(3))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (dict(method="mixture"), "needs its budget"),
        (dict(method="sta", density=1.5), "must lie in"),
        (dict(method="sparse-vdit", rounds=0), "at least 1"),
        (dict(method="sta", prompts=("cat",)), "must be digits"),
        (dict(method="sta", prompts=("2",), held_out=1), "leaves none of 1 prompts"),
        (dict(method="sta", held_out=9), "leaves none of 4 prompts"),
        (dict(method="sta", held_out=-1), "must not be negative"),
        (dict(method="sta", steps=0), "steps=0 must be at least 1"),
        (dict(method="sta", save_every=0), "save_every=0 must be at least 1"),
        (dict(method="sta", name="a/b"), "name='a/b' must be letters"),
        (dict(method="sparse-vdit", lam=float("nan")), "lam=nan must be a number"),
        (dict(method="sta", embeddings=(Path("a.npz"),)), "embeddings are for a --model"),
        (dict(method="sta", candidates=Path("nowhere.json")), "no file nowhere.json for --cand"),
        (dict(method="mixture", density=0.2, costs=Path("no.json")), "no file no.json for --costs"),
        (dict(method="sta", tile=(0, 1, 1)), r"tile=\(0, 1, 1\) must have 1 to \(16, 16, 16\)"),
        (dict(method="sta", tile=(64, 64, 64)), "choose a smaller --tile"),
        (dict(method="mixture", density=0.2, block=4096), "block=4096 puts all 4096 tokens"),
        (dict(method="sta", windows=((9, 9, 9),)), "no candidate leaves anything out"),
        (dict(method="sta", dense_steps=15), "no step counts"),
        (dict(method="mixture", density=0.2, dense_steps=15), "no step counts"),
        (dict(method="mixture", density=0.2, steps=1), "no step counts"),
    ],
)
@pytest.mark.filterwarnings("ignore:SlidingTile window")  # one flag is larger than the canvas
def test_bad_flags_are_refused_before_anything_is_measured(flags, message, tmp_path, monkeypatch):
    monkeypatch.setattr(subjects, "load_tiny", lambda *a, **k: _tiny())
    with pytest.raises(ValueError, match=message):
        main(Config(out=tmp_path / "out", **flags))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "method", "message"),
    [
        ('{"a": [', "sta", "holds no list of patterns .*write one as in attention.json"),
        ("[]", "sta", "must hold a list of patterns"),
        ("[1, 2]", "sta", "must hold a list of patterns"),
        ([Diagonal(0.5, 64), Diagonal(0.25, 32)], "sparse-vdit", "blocks of different"),
        ([AdaSpa(0.2, 64, False)], "sparse-vdit", "AdaSpa"),
        ([SlidingTile((4, 4, 4), (1, 1, 1)), Skip()], "sta", "Skip.* is no window .*mixture"),
        ([Diagonal(0.25, 64), Diagonal(0.5, 64)], "sparse-vdit", "density=0.1 is below 0.2.*add"),
        ([Diagonal(0.25, 64), Diagonal(0.5, 64)], "mixture", "density=0.1 is below 0.2.*add"),
    ],
)
def test_bad_candidates_are_refused_before_anything_is_measured(
    text, method, message, tmp_path, monkeypatch
):
    monkeypatch.setattr(subjects, "load_tiny", lambda *a, **k: _tiny())
    path = tmp_path / "candidates.json"
    path.write_text(text if isinstance(text, str) else json.dumps(codec.encode(text)))
    config = Config(method=method, density=0.1, candidates=path, out=tmp_path / "out")
    with pytest.raises(ValueError, match=message):
        main(config)
    assert not (tmp_path / "out").exists()


@functools.cache
def _tiny():
    from flax import nnx

    from models.tiny import TinyConfig, TinyVideoDiT

    return nnx.eval_shape(lambda: TinyVideoDiT(TinyConfig(), rngs=nnx.Rngs(0)))
