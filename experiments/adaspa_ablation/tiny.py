"""Guided runs of the Tiny model that the parts share."""

import dataclasses
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from models.tiny import TinyVideoDiT

PAPER_STEPS = 50


def scaled(search_steps: tuple[int, ...], num_steps: int) -> tuple[int, ...]:
    """The paper's search steps of 50, counted from 1, for a run of `num_steps`."""
    return tuple(max(1, round(step * num_steps / PAPER_STEPS)) for step in search_steps)


def check_digits(digits: tuple[int, ...]) -> None:
    """ValueError for what the model has no class for."""
    if not digits or not all(0 <= d <= 9 for d in digits):
        raise ValueError(f"digits={digits} must be 0 to 9, and one at least")


def noise(model: TinyVideoDiT, video: tuple[int, int, int], seed: int, count: int) -> jax.Array:
    """Noise of `count` clips: [count, F, Y, X, C]."""
    return jax.random.normal(jax.random.key(seed), (count, *video, model.config.channels))


def kept(
    path: Path, config: Any, make: Callable[[], Mapping[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Arrays of an earlier run with an equal `config` from `path`, or what `make` gives, stored there."""
    key = json.dumps(dataclasses.asdict(config), default=str, sort_keys=True)
    if path.is_file():
        try:
            with path.open("rb") as file, np.load(file) as stored:
                if str(stored["config"]) == key:
                    return {name: stored[name] for name in stored.files if name != "config"}
        except (ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as problem:
            raise ValueError(
                f"{path} is damaged or of something else; move it away, or choose another --out"
            ) from problem
    arrays = dict(make())
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part.npz")
    np.savez(partial, config=np.asarray(key), **arrays)
    partial.replace(path)
    return arrays
