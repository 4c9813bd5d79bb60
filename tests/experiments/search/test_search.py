"""Whole searches on tiny random models of every family, from prompt to attention."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from experiments.generation.choose_attention import choose_attention
from experiments.search.__main__ import main, write_strategy
from experiments.search.search_flags import Config, candidates_of, default_windows, schedule_of
from experiments.search.task import make_task
from sparsevdit_jax import SparseAttention, StepSchedule, VideoGrid, codec, metrics
from sparsevdit_jax.fastvideo import to_strategy
from sparsevdit_jax.patterns import AdaSpa, Dense, Diagonal, MultiDiagonal, Skip, SlidingTile
from sparsevdit_jax.search.costs import CostTable, Measurement, Timing
from sparsevdit_jax.search.measurements import Measurements
from sparsevdit_jax.search.tables import step_table

from .cases import SMALL, STA

METHODS = {
    "sta": STA,
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


@pytest.mark.parametrize(
    ("method", "family"),
    # What a family changes (its grid, its text, its two rows) is the same for all methods.
    [
        ("sta", "wan"),
        ("sparse-vdit", "hunyuan_video"),
        ("mixture", "cogvideox"),
        pytest.param("mixture", "wan", marks=pytest.mark.slow),
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
    assert read_by_generate(tmp_path / "attention.json", attention) == attention
    assert not (tmp_path / "strategy.json").exists()  # its tiles are not FastVideo's
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


def read_by_generate(path, attention):
    """What `experiments.generate --attention` takes a file for, on the same model and canvas."""
    sizes = dict(num_layers=len(attention.patterns), num_heads=attention.num_heads)
    steps = attention.schedule.num_steps
    return choose_attention(str(path), attention.grid, num_steps=steps, **sizes)


FULL, PART = (2, 2, 3), (1, 2, 1)


@pytest.mark.parametrize(
    ("tile", "windows", "dense_steps", "said"),
    [
        ((6, 8, 8), [PART, PART], 1, None),
        ((6, 8, 8), [FULL, PART], 0, None),  # a head shows how large the canvas is
        ((6, 8, 8), [PART, PART], 0, "the latent grid that this strategy was made for is unknown"),
        (
            (6, 8, 8),
            [PART, (2, 1, 1)],
            0,
            "the latent grid that this strategy was made for is unknown",
        ),
        ((6, 8, 9), [PART, PART], 1, r"tiles of \(6, 8, 8\), and these are \(6, 8, 9\)"),
    ],
)
def test_generate_takes_every_strategy_that_is_written_for_what_it_is(
    tile, windows, dense_steps, said, tmp_path, capsys
):
    grid, schedule = VideoGrid(8, 16, 20), StepSchedule(3, dense_steps)
    candidates = tuple(SlidingTile(tile, window) for window in windows)
    choice = np.tile(np.arange(2)[None, None], (3, 2, 1))
    choice[:dense_steps] = -1
    attention = step_table(choice, candidates, schedule, grid=grid)
    path = tmp_path / "strategy.json"
    write_strategy(path, attention, tile)
    printed = capsys.readouterr().out
    assert path.exists() == (said is None)
    if said is None:
        found = read_by_generate(path, attention)
        assert found.schedule == schedule
        assert to_strategy(found) == to_strategy(attention)
    else:
        assert re.search(f"no strategy.json is written: .*{said}.*attention.json says all", printed)


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
    for change, message in (
        (dict(steps=4), "steps: 3 there, 4 here"),
        (dict(negative_prompt="blurred"), "negative_prompt: '' there, 'blurred' here"),
    ):
        with pytest.raises(ValueError, match=message):
            main(dataclasses.replace(config, **change))
    copy = Path(shutil.copytree(config.model, tmp_path / "copy"))
    main(dataclasses.replace(config, model=copy))  # the same by another path: all is measured
    config_file = copy / "transformer" / "config.json"
    config_file.write_text(config_file.read_text() + "\n")
    with pytest.raises(ValueError, match=r"transformer/config\.json: 'sha256"):
        main(dataclasses.replace(config, model=copy))


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
