"""The comparison's rows: what a method keeps, what it costs, how close it comes to dense."""

from collections.abc import Mapping

import numpy as np

from experiments.demo import measure
from experiments.demo.methods import Method
from sparsevdit_jax import VideoGrid
from sparsevdit_jax.metrics import psnr, ssim
from sparsevdit_jax.patterns import PerHead
from sparsevdit_jax.schedule import exact_steps

COLUMNS = {
    "density": "{density:.3f}",
    "recall": "{recall:.3f}",
    "PSNR dB": "{psnr_db:.2f}",
    "SSIM": "{ssim:.4f}",
    "attention ms": "{attention_ms:.0f}",
    "step ms": "{step_ms:.0f}",
    "attention ×": "{speedup_attention:.2f}",
    "step ×": "{speedup_step:.2f}",
    "run ×": "{speedup_run:.2f}",
}
"""Columns of the printed table; the last three are speed-ups over dense."""


def describe(method: Method, results: dict, layers, grid: VideoGrid) -> tuple[dict, dict]:
    """(row of the comparison without times of attention, its density and recall by layer and head).

    Args:
      results: of `Runner.run`, by method key; "dense" among them.
      layers: q, k, v of every layer at the probed step.
    """
    result, dense = results[method.key], results["dense"]
    if method.attention is None:
        shape = (len(layers), layers[0][0].shape[2])
        head = dict(density=np.ones(shape).tolist(), recall=np.ones(shape).tolist())
        quality = dict(density=1.0, density_run=1.0, recall=1.0, output_error=0.0)
        quality |= dict(psnr_db=None, ssim=1.0)
    else:
        pairs = zip(method.attention.patterns, layers, strict=True)
        measured = [measure.head_quality(p, qkv, grid) for p, qkv in pairs]
        density, recall, error = (
            np.stack([m[k] for m in measured]) for k in ("density", "recall", "error")
        )
        head = dict(density=density.tolist(), recall=recall.tolist())
        if all(isinstance(p, PerHead) for p in method.attention.patterns):
            head["mode"] = [head_modes(p) for p in method.attention.patterns]
        schedule = method.attention.schedule
        exact = exact_steps(schedule) / schedule.num_steps
        clips = result["clip"], dense["clip"]
        quality = dict(
            density=float(density.mean()),
            density_run=exact + (1 - exact) * float(density.mean()),
            recall=float(recall.mean()),
            output_error=float(error.mean()),
            psnr_db=float(psnr(*clips, data_range=2.0)),
            ssim=float(ssim(*clips, data_range=2.0)),
        )
    times = dict(step_ms=result["step_ms"], run_s=result["run_s"])
    speed = dict(
        speedup_step=dense["step_ms"] / result["step_ms"],
        speedup_run=dense["run_s"] / result["run_s"],
    )
    names = dict(key=method.key, label=method.label, note=method.note, variant=method.variant)
    return dict(**names, **quality, **times, **speed, phases=result["phases"]), head


def with_attention(row: dict, attention_ms: Mapping[str, float]) -> dict:
    """The row with its time of one step's attention, and the speed-up over dense; by method key."""
    own = attention_ms[row["key"]]
    return row | dict(attention_ms=own, speedup_attention=attention_ms["dense"] / own)


def head_modes(pattern: PerHead) -> list[str]:
    """Name of the pattern of each head."""
    names = {h: type(member).__name__ for member, heads in pattern.groups for h in heads}
    return [names[h] for h in range(pattern.num_heads)]


def cells(row: dict) -> list[str]:
    """The row's entries under `COLUMNS`; a dash where dense is compared with itself."""
    return [
        "–" if row["psnr_db"] is None and name == "PSNR dB" else text.format(**row)
        for name, text in COLUMNS.items()
    ]


def print_table(rows: list[dict]) -> None:
    """The comparison, on the terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="the same noise, against dense attention; medians of this machine")
    table.add_column("method")
    for name in COLUMNS:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(row["label"], *cells(row))
    width = Console().width  # a log file counts as 80 columns, too few for the table
    Console(width=max(width, 120)).print(table)
