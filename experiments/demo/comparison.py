"""The rows of the comparison: what a method keeps, what it costs, and how close it comes to dense."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.demo.compared_methods import Method
from experiments.demo.masks_by_head import HeadMask, head_quality
from experiments.demo.rounds import READING, Spread, spread_of, word_for
from sparsevdit_jax import AttentionPattern
from sparsevdit_jax.metrics import psnr, ssim
from sparsevdit_jax.schedule import exact_steps

COLUMNS = {
    "density": "density",
    "recall": "recall",
    "PSNR dB": "psnr_db",
    "SSIM": "ssim",
    "step ms": "step_ms",
    "attention ×": "speedup_attention",
    "step ×": "speedup_step",
    "run ×": "speedup_run",
}
"""Columns of the printed table and their fields; the last three are speed-ups over dense."""

DIGITS = {"density": 3, "recall": 3, "psnr_db": 2, "ssim": 4}


def clip_row(method: Method, clip: np.ndarray, dense: np.ndarray) -> dict[str, Any]:
    """Names of a method and how close its clip comes to the dense one, float [F, Y, X, C] in [-1, 1]."""
    close: dict[str, Any] = dict(psnr_db=None, ssim=1.0)
    phases: dict[str, int] = {}
    if method.attention is not None:
        pair = clip, dense
        close = dict(
            psnr_db=float(psnr(*pair, data_range=2.0)), ssim=float(ssim(*pair, data_range=2.0))
        )
        phases = {p.value: n for p, n in method.attention.schedule.counts().items()}
    names = dict(key=method.key, label=method.label, note=method.note, variant=method.variant)
    return dict(**names, **close, phases=phases)


def quality(
    method: Method, masks: Sequence[list[HeadMask]], layers: Sequence
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(fields of a method's row, its density, recall and modes by layer and head).

    Args:
      method: what has run.
      masks: of each layer's heads; none for dense.
      layers: q, k, v [1, L, H, D] of every layer at the probed step.
    """
    if method.attention is None:
        ones = np.ones((len(layers), layers[0][0].shape[2])).tolist()
        row = dict(density=1.0, density_run=1.0, recall=1.0, output_error=0.0)
        return row, dict(density=ones, recall=ones)
    measured = [head_quality(own, qkv) for own, qkv in zip(masks, layers, strict=True)]
    found = {name: np.stack([m[name] for m in measured]) for name in measured[0]}
    heads: dict[str, Any] = {name: found[name].tolist() for name in ("density", "recall")}
    modes = [
        head_modes(p, len(own)) for p, own in zip(method.attention.patterns, masks, strict=True)
    ]
    if len({mode for layer in modes for mode in layer}) > 1:
        heads["mode"] = modes
    means = {name: float(values.mean()) for name, values in found.items()}
    schedule = method.attention.schedule
    exact = exact_steps(schedule) / schedule.num_steps
    row = dict(
        density=means["density"],
        density_run=exact + (1 - exact) * means["density"],
        recall=means["recall"],
        output_error=means["error"],
    )
    return row, heads


def head_modes(pattern: AttentionPattern, num_heads: int) -> list[str]:
    """Name of the pattern of each head, at the first step."""
    return [type(p).__name__ for p in pattern.at_step(0, num_heads)]


def as_row(spreads: Mapping[str, Spread]) -> dict[str, dict[str, float]]:
    """The spreads as JSON has them."""
    return {field: dataclasses.asdict(spread) for field, spread in spreads.items()}


def cell(row: Mapping[str, Any], field: str) -> str:
    """The row's entry under a column of `COLUMNS`; a dash where dense is compared with itself."""
    speedup = field.startswith("speedup")
    if not speedup and not field.endswith("_ms"):
        value = row.get(field)
        return "–" if value is None else f"{value:.{DIGITS[field]}f}"
    spread = spread_of(row, field)
    if spread is None:
        return "–"
    shown = "{0.median:.2f} ({0.low:.2f}–{0.high:.2f})" if speedup else "{0.median:.0f}"
    return word_for(spread, speedup=speedup) or shown.format(spread)


def print_table(rows: Sequence[Mapping[str, Any]], rounds: int) -> None:
    """The comparison, on the terminal, and what its words mean."""
    from rich.console import Console
    from rich.table import Table

    title = f"the same noise, against dense attention; medians and ranges of {rounds} rounds"
    table = Table(title=title)
    table.add_column("method")
    for name in COLUMNS:
        table.add_column(name, justify="right")
    cells = [[cell(row, field) for field in COLUMNS.values()] for row in rows]
    for row, shown in zip(rows, cells, strict=True):
        table.add_row(row["label"], *shown)
    width = Console().width  # a log file counts as 80 columns, too few for the table
    Console(width=max(width, 130)).print(table)
    words = {word for shown in cells for word in shown}
    for word in READING:
        if word in words:
            print(f"{word}: {READING[word]}")
