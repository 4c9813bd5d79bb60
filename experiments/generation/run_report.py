"""The report of a run: its times, and how its video differs from the dense one."""

import json
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.new_file import written_whole
from experiments.record import environment
from sparsevdit_jax import SparseAttention, VideoGrid
from sparsevdit_jax.metrics import device_imbalance, psnr, ssim

Steps = Iterable[tuple[str, float]]
"""Phase and seconds of each step."""


def timing(steps: Steps) -> dict[str, dict[str, float]]:
    """Steps, total and median of each phase."""
    phases: dict[str, list[float]] = {}
    for phase, seconds in steps:
        phases.setdefault(phase, []).append(seconds)
    return {
        name: {
            "steps": len(times),
            "total_s": sum(times),
            "median_ms": 1000 * statistics.median(times),
        }
        for name, times in phases.items()
    }


def compare(
    video: np.ndarray, dense: np.ndarray, phases: Mapping[str, Steps], name: str, num_steps: int
) -> dict[str, float | None]:
    """PSNR and SSIM of two clips, uint8 [F, Y, X, 3], and the speed-up of denoising.

    The speed-up compares whole runs without compilation; None where one of them had begun in an earlier process.
    """
    a, b = (jnp.asarray(v, jnp.float32) for v in (video, dense))
    window = min(11, *(n - 1 + n % 2 for n in video.shape[1:3]))
    took = {key: list(steps) for key, steps in phases.items()}
    whole = all(len(took[key]) == num_steps for key in (name, "dense"))
    seconds = {key: sum(s for _, s in steps) for key, steps in took.items()}
    return {
        "psnr_db": float(psnr(a, b, data_range=255.0)),
        "ssim": float(
            np.mean(
                [ssim(x, y, data_range=255.0, window=window) for x, y in zip(a, b, strict=True)]
            )
        ),
        "speedup": seconds["dense"] / seconds[name] if whole else None,
    }


def describe(attention: SparseAttention | None) -> str | None:
    """The pattern of all layers, or how many there are; None is dense."""
    if attention is None:
        return None
    distinct = list(dict.fromkeys(attention.patterns))
    if len(distinct) == 1:
        return f"{distinct[0]}"
    return f"{len(distinct)} patterns for {len(attention.patterns)} layers"


def balance(attention: SparseAttention, grid: VideoGrid, num_heads: int, devices: int) -> str:
    """How evenly the heads keep the devices busy, at the first step, where a pattern alone says so."""
    known = [p for p in dict.fromkeys(attention.patterns) if not p.searches]
    if not known or num_heads < devices:
        return f"{num_heads} heads on {devices} devices"
    found = [device_imbalance(p, grid, num_heads=num_heads, devices=devices) for p in known]
    assigned, numbered = (max(values) for values in zip(*found, strict=True))
    return (
        f"{num_heads} heads assigned to {devices} devices by work: the busiest has {assigned:.2f} of the mean "
        f"({numbered:.2f} in the order of their numbers)"
    )


def write_report(path: Path, config: Mapping[str, Any], report: Mapping[str, Any]) -> None:
    """JSON with settings, measurements, versions and device."""
    document = {"config": config, **report, "environment": environment()}
    text = json.dumps(document, indent=1, default=str) + "\n"
    with written_whole(path) as part:
        part.write_text(text, encoding="utf-8")
