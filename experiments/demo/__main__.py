"""The main job: the same clip with dense attention, STA, AdaSpa and Sparse-vDiT's modes, measured.

    make demo                        # or: python -m experiments.demo
    make demo SEED=7 DIGIT=5

Loads the committed TinyVideoDiT, denoises the same noise with every method, and writes out/demo/: index.html
(opens offline), MP4 and GIF files, pictures of masks and attention maps, results.json. About five minutes on
two CPU cores. All methods share the dense warm-up steps, so their runs fork from the dense one after those.
"""

import datetime
import json
import shutil
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from experiments.demo import measure, pictures
from experiments.demo.methods import Method, per_head_mix, published_methods
from experiments.demo.page import write_page
from experiments.demo.report import describe, print_table
from experiments.demo.runner import SHIFT, Config, Runner, load_model
from experiments.layer_inputs import layer_inputs
from experiments.loss_curve import draw_losses, whole_curve
from experiments.media import write_clip
from experiments.moving_digits import MovingDigits
from experiments.progress import progress_bar
from experiments.record import Run, environment, git_state
from models.checkpoint import count_parameters
from models.flow_matching import add_noise
from models.sampling import sampling_times

MODES = ("diagonal", "multi-diagonal", "stripe")
"""The methods that are modes of Sparse-vDiT, from which a head's mode is chosen."""


def prepare_folder(out: Path) -> None:
    """Empties an earlier demo's folder; refuses any other that has something in it."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if not (out / "results.json").is_file():
            raise ValueError(
                f"{out} is in use and holds no earlier demo's results.json; choose another --out"
            )
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)


def choose_modes(runner: Runner, methods: list[Method]) -> Method:
    """Sparse-vDiT with a mode per head, from one pass over a real held-out clip, noised half way."""
    frames, height, width = runner.config.video
    rng, t = np.random.default_rng(123), 0.6
    stream = MovingDigits(frames=frames, height=height, width=width)
    clip, label = stream.clips(rng, 1, held_out=True)
    noise = rng.standard_normal(clip.shape, np.float32)
    noisy = add_noise(clip, noise, jnp.full((1,), t, jnp.float32))
    layers = layer_inputs(runner.model, noisy, t, label)
    candidates = [m.attention.patterns[0] for m in methods if m.key in MODES]
    recalls = {}
    with progress_bar("choosing a mode per head", total=len(candidates)) as advance:
        for pattern in candidates:
            measured = [measure.head_quality(pattern, qkv, runner.grid) for qkv in layers]
            recalls[pattern] = [m["recall"] for m in measured]
            advance(type(pattern).__name__)
    return Method(
        key="per-head",
        label="Sparse-vDiT per head",
        note="Each head has the mode that keeps most of its attention on a real clip; some stay dense.",
        attention=per_head_mix(recalls, runner.config.steps),
    )


def run_methods(runner: Runner, config: Config) -> tuple[list[Method], dict[str, dict]]:
    """All methods asked for, dense first, and their results by key."""
    methods = list(published_methods(runner.model.config.num_layers, config.steps))
    known = [m.key for m in methods[1:]] + ["per-head"]
    if unknown := sorted(set(config.only) - set(known)):
        raise ValueError(f"only={unknown} names no method; choose from {known}")
    results = {"dense": runner.run(methods[0])}
    if not config.only or "per-head" in config.only:
        last_mode = max(i for i, m in enumerate(methods) if m.key in MODES)
        methods.insert(last_mode + 1, choose_modes(runner, methods))
    methods = [m for m in methods if not config.only or m.key in ("dense", *config.only)]
    for method in methods[1:]:
        results[method.key] = runner.run(method)
    return methods, results


def main(config: Config) -> None:
    """Runs the demo."""
    began = time.time()
    run = Run.start("demo", config) if config.record else None
    model, dtype = load_model(config)
    prepare_folder(config.out)
    runner = Runner(config, model)
    methods, results = run_methods(runner, config)

    t = float(sampling_times(config.steps, SHIFT)[runner.probe_step])
    layers = layer_inputs(model, runner.kept[runner.probe_step], t, [config.digit])
    attention_ms = measure.attention_times(methods, layers, runner.grid)
    rows, heads = [], {}
    with progress_bar("measuring what is kept", total=len(methods)) as advance:
        for method in methods:
            row, heads[method.key] = describe(method, results, layers, runner.grid, attention_ms)
            clips = results[method.key]["clip"], results["dense"]["clip"]
            rows.append(row | write_clip(config.out, method.key, *clips))
            advance(method.label)
    sizes, grid = model.config, runner.grid
    summary = dict(
        title="SparseVDiT-JAX: one clip, dense and sparse",
        settings=dict(
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
            parameters=count_parameters(model),
            dtype=dtype,
        ),
        environment=environment()
        | dict(commit=git_state()[0][:12], date=datetime.date.today().isoformat()),
        methods=rows,
        heads=heads,
        pictures=pictures.draw_all(config.out, methods, layers, grid),
        training=training_record(config.weights, config.out),
        seconds=time.time() - began,
    )
    (config.out / "results.json").write_text(json.dumps(summary, indent=1) + "\n")
    page = write_page(config.out, summary)
    print_table(rows)
    if run is not None:
        record_rows(run, rows, summary["settings"])
    print(f"\n{page.resolve()}   ({time.time() - began:.0f} s)")


def record_rows(run: Run, rows: list[dict], settings: dict) -> None:
    """One record a method."""
    same = ("density", "density_run", "recall", "ssim", "attention_ms", "step_ms", "run_s")
    for row in rows:
        quality = {} if row["psnr_db"] is None else {"psnr_db": row["psnr_db"]}
        speed = {f"{part}_speedup": row[f"speedup_{part}"] for part in ("attention", "step", "run")}
        run.log(
            method=row["label"],
            tokens=settings["tokens"],
            dtype=settings["dtype"],
            output_error=row["output_error"],
            **{key: row[key] for key in same},
            **quality,
            **speed,
        )


def training_record(weights: Path, folder: Path) -> dict:
    """The record beside the weights of the run that made them, its curve drawn; empty if there is none."""
    path = weights.with_suffix(".json")
    if not path.is_file():
        return {}
    record = json.loads(path.read_text())
    entry = {"record": {key: record[key] for key in record.keys() - {"loss", "started_from"}}}
    if curve := whole_curve(record):
        draw_losses(curve, folder / "training_loss.png")
        entry["loss_png"] = "training_loss.png"
    return entry


if __name__ == "__main__":
    import tyro

    try:
        main(tyro.cli(Config))
    except (ValueError, OSError) as problem:
        sys.exit(f"error: {problem}")
