"""The main job: the same clip with dense attention, STA, AdaSpa, Sparse-vDiT and a searched mixture, measured.

    make demo                        # or: python -m experiments.demo
    make demo SEED=7 DIGIT=5
    make demo ARGS=--all             # every method and setting, in 30 steps

Loads the committed TinyVideoDiT, denoises the same noise with every method, and writes out/demo/: index.html
(opens offline), MP4 and GIF files, pictures of masks and attention maps, results.json. Two to three minutes on two
CPU cores, ten with --all. All methods share the dense warm-up steps, so their runs fork from the dense one after
those. When all clips are made, steps are timed in rounds, each method beside dense. An earlier demo stays as it is
until the new one is finished; an interrupted one leaves its clips beside it, in out/demo.new/, until the next run.
"""

import datetime
import json
import sys
import time
from pathlib import Path

import jax

from experiments import command
from experiments.demo.clip_runner import Config, Runner
from experiments.demo.clips import make_clips
from experiments.demo.comparison import as_row, print_table, quality
from experiments.demo.demo_page import write_page
from experiments.demo.folder import begin, finish, place_beside, write_results
from experiments.demo.mask_pictures import draw_all
from experiments.demo.masks_by_head import head_masks
from experiments.demo.plan import Plan, load_model, plan_of
from experiments.demo.rounds import ROUNDS, spread_of
from experiments.demo.step_times import measure_times, turns
from experiments.layer_inputs import layer_inputs
from experiments.loss_curve import whole_curve
from experiments.progress import progress_bar
from experiments.record import ROOT, Run, environment, git_state

COMPILED = ROOT / "out" / "compiled"
"""Where compiled programs are kept for the next demo, unless JAX_COMPILATION_CACHE_DIR names another folder."""


def compare(runner: Runner, plan: Plan, folder: Path) -> dict:
    """Runs and measures the methods; each one's clip and row in results.json are in `folder` as soon as it has run.

    Returns:
      methods, the rows; heads, density and recall by method; pictures.
    """
    methods, rows = make_clips(runner, plan, folder)
    step, sizes = runner.probe_step, runner.model.config
    layers = layer_inputs(runner.model, runner.kept[step], runner.probe_time, [runner.config.digit])
    with progress_bar("timing in rounds", total=turns(methods)) as advance:
        times = measure_times(runner, methods, layers, advance)
    masks, heads = {}, {}
    with progress_bar("measuring and drawing", total=len(methods) + 1) as advance:
        for method in methods:
            attention, states = method.attention, runner.states[method.key]
            masks[method.key] = [] if attention is None else [
                head_masks(pattern, state, runner.grid, num_heads=sizes.num_heads, step=step)
                for pattern, state in zip(attention.patterns, states, strict=True)
            ]  # fmt: skip
            kept, heads[method.key] = quality(method, masks[method.key], layers)
            rows[method.key] |= kept | as_row(times[method.key])
            advance(method.label)
        pictures = draw_all(folder, methods, masks, layers, runner.grid)
        advance("")
    return dict(methods=list(rows.values()), heads=heads, pictures=pictures)


def settings_of(runner: Runner, dtype: str) -> dict:
    """What was run, as the page shows it."""
    config, sizes, grid = runner.config, runner.model.config, runner.grid
    return dict(
        seed=config.seed,
        digit=config.digit,
        steps=config.steps,
        guidance=config.guidance,
        grid=grid.shape,
        text_tokens=grid.text_len,
        tokens=grid.num_tokens,
        video=config.video,
        layers=sizes.num_layers,
        heads=sizes.num_heads,
        head_dim=sizes.head_dim,
        parameters=runner.model.num_parameters,
        dtype=dtype,
        rounds=ROUNDS,
    )


def main(config: Config) -> None:
    """Runs the demo; an earlier one stays as it is until this one is finished."""
    began = time.time()
    new, plan = place_beside(config.out), plan_of(config)
    run = Run.start("demo", config) if config.record else None
    model, dtype = load_model(config)
    runner = Runner(config, model)
    begin(new)
    try:
        summary = dict(
            title="SparseVDiT-JAX: one clip, dense and sparse",
            settings=settings_of(runner, dtype),
            environment=environment()
            | dict(commit=git_state()[0][:12], date=datetime.date.today().isoformat()),
            **compare(runner, plan, new),
            training=training_record(config.weights),
            seconds=time.time() - began,
        )
        write_results(new, summary)
        write_page(new, summary)
    except KeyboardInterrupt:
        sys.exit(f"interrupted: {config.out} is as it was; what was finished is in {new}")
    finish(new, config.out)
    print_table(summary["methods"], ROUNDS)
    if run is not None:
        record_rows(run, summary["methods"], summary["settings"])
    page = config.out.resolve() / "index.html"
    print(f"\n{page}   ({time.time() - began:.0f} s)")


def record_rows(run: Run, rows: list[dict], settings: dict) -> None:
    """One record a method: medians of times and speed-ups, and the ranges of both."""
    for row in rows:
        numbers = {key: row[key] for key in ("density", "density_run", "recall", "output_error")}
        numbers |= {key: row[key] for key in ("psnr_db", "ssim") if row[key] is not None}
        for field, name in TIMES.items():
            if (spread := spread_of(row, field)) is not None:
                word, _, unit = name.rpartition("_")
                numbers[name] = spread.median
                numbers[f"{word}_low_{unit}"] = spread.low
                numbers[f"{word}_high_{unit}"] = spread.high
        same = dict(tokens=settings["tokens"], dtype=settings["dtype"], rounds=settings["rounds"])
        run.log(method=row["label"], **same, **numbers)


TIMES = {
    "attention_ms": "attention_ms",
    "step_ms": "step_ms",
    "run_s": "run_s",
    "speedup_attention": "attention_speedup",
    "speedup_step": "step_speedup",
    "speedup_run": "run_speedup",
}
"""Fields of a row and their names in a record."""


def training_record(weights: Path) -> dict:
    """The record beside the weights of the run that made them, with its losses; empty if there is none."""
    path = weights.with_suffix(".json")
    if not path.is_file():
        return {}
    record = json.loads(path.read_text(encoding="utf-8"))
    shown = {key: record[key] for key in record.keys() - {"loss", "started_from"}}
    return {"record": shown, "loss": whole_curve(record)}


if __name__ == "__main__":
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(COMPILED))
    command.run(main, Config, description=__doc__)
