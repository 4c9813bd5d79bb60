"""The main job: the same clip with dense attention, STA, AdaSpa and Sparse-vDiT's modes, measured.

    make demo                        # or: python -m experiments.demo
    make demo SEED=7 DIGIT=5

Loads the committed TinyVideoDiT, denoises the same noise with every method, and writes out/demo/: index.html
(opens offline), MP4 and GIF files, pictures of masks and attention maps, results.json. Five to eight minutes on
two CPU cores. All methods share the dense warm-up steps, so their runs fork from the dense one after those.
An earlier demo stays as it is until the new one is finished; an interrupted one leaves its clips beside it, in
out/demo.new/, until the next run.
"""

import datetime
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from experiments import command
from experiments.demo import measure, pictures
from experiments.demo.folder import begin, finish, place_beside, write_results
from experiments.demo.methods import Method, per_head_mix, published_methods
from experiments.demo.page import write_page
from experiments.demo.report import describe, print_table, with_attention
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


def run_methods(runner: Runner, methods: list[Method]) -> Iterator[tuple[Method, dict]]:
    """Every method asked for with its result, as soon as there is one; dense first."""
    only = runner.config.only
    yield methods[0], runner.run(methods[0])
    if not only or "per-head" in only:
        last_mode = max(i for i, m in enumerate(methods) if m.key in MODES)
        mix = choose_modes(runner, methods)
        methods = [*methods[: last_mode + 1], mix, *methods[last_mode + 1 :]]
    for method in methods[1:]:
        if not only or method.key in only:
            yield method, runner.run(method)


def compare(runner: Runner, folder: Path) -> dict:
    """Runs the methods; each one's clip, and its row in results.json, are in `folder` as soon as it has run.

    Returns:
      methods, the rows, now with the times of attention; heads, density and recall by method; pictures.
    """
    config, model, grid = runner.config, runner.model, runner.grid
    t = float(sampling_times(config.steps, SHIFT)[runner.probe_step])
    methods, results, rows, heads, layers = [], {}, [], {}, []
    published = list(published_methods(model.config.num_layers, config.steps))
    for method, result in run_methods(runner, published):
        layers = layers or layer_inputs(model, runner.kept[runner.probe_step], t, [config.digit])
        methods.append(method)
        results[method.key] = result
        row, heads[method.key] = describe(method, results, layers, grid)
        rows.append(row | write_clip(folder, method.key, result["clip"], results["dense"]["clip"]))
        write_results(folder, {"methods": rows})
    attention_ms = measure.attention_times(methods, layers, grid)
    return dict(
        methods=[with_attention(row, attention_ms) for row in rows],
        heads=heads,
        pictures=pictures.draw_all(folder, methods, layers, grid),
    )


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
        parameters=count_parameters(runner.model),
        dtype=dtype,
    )


def main(config: Config) -> None:
    """Runs the demo; an earlier one stays as it is until this one is finished."""
    began = time.time()
    new = place_beside(config.out)
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
            **compare(runner, new),
            training=training_record(config.weights, new),
            seconds=time.time() - began,
        )
        write_results(new, summary)
        write_page(new, summary)
    except KeyboardInterrupt:
        sys.exit(f"interrupted: {config.out} is as it was; what was finished is in {new}")
    finish(new, config.out)
    print_table(summary["methods"])
    if run is not None:
        record_rows(run, summary["methods"], summary["settings"])
    page = config.out.resolve() / "index.html"
    print(f"\n{page}   ({time.time() - began:.0f} s)")


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
    command.run(main, Config)
