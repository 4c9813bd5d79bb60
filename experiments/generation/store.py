"""A denoising run kept on disk every few steps, so that an interrupted one goes on where it was."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from experiments import hosts
from experiments.generation.settings import Config
from models.pipelines import Progress
from sparsevdit_jax import SparseAttention

_KEY = "run"
_FIELDS = ("prompt", "negative_prompt", "frames", "height", "width", "steps", "guidance", "shift", "seed", "dtype",
           "lora_scale")  # fmt: skip


def store_of(config: Config, name: str) -> Path:
    """Where the run of this attention is kept."""
    part = "-dense" if name == "dense" and config.compare else ""
    return config.out.with_name(f"{config.out.stem}{part}.run.safetensors")


def settings_of(config: Config, name: str, attention: SparseAttention | None) -> dict[str, Any]:
    """What must be the same for an interrupted run to go on; on how many devices may change."""
    settings = {field: getattr(config, field) for field in _FIELDS}
    for field in ("model", "image", "embeddings"):
        path = getattr(config, field)
        settings[field] = None if path is None else str(path)
    settings["lora"] = [str(path) for path in config.lora]
    settings["attention"] = name if attention is None else attention.to_json()
    return settings


def save_progress(path: Path, progress: Progress, settings: Mapping[str, Any]) -> None:
    """Writes `progress` and what the run was started with; the file before it stays until this one is whole.

    Every process must call it; the first one writes.
    """
    leaves = jax.tree.leaves((progress.x, progress.solver, progress.states))
    arrays = {f"{i:06d}": hosts.to_host(leaf) for i, leaf in enumerate(leaves)}
    if not hosts.is_first():
        return
    flags = [name for name, a in arrays.items() if a.dtype == bool]
    arrays |= {name: arrays[name].astype(np.uint8) for name in flags}
    run = {"step": progress.step, "settings": dict(settings), "flags": flags}
    part = path.with_suffix(path.suffix + ".part")
    save_file(arrays, str(part), metadata={_KEY: json.dumps(run)})
    os.replace(part, path)


def load_progress(path: Path, begin: Progress, settings: Mapping[str, Any]) -> Progress:
    """The run in `path`, or `begin` where there is no such file.

    Args:
      begin: the state before the first step; gives structure, shapes and dtypes.
      settings: what this run is started with.

    Raises:
      ValueError: the file is damaged or of a run with other settings; the message names them.
    """
    if not path.is_file():
        return begin
    try:
        file = safe_open(str(path), framework="numpy")
    except Exception as problem:  # safetensors has an exception of its own for every kind of damage
        raise ValueError(f"{path} is damaged ({problem}); remove it to start anew") from problem
    with file:
        run = json.loads(file.metadata()[_KEY])
        changed = {
            name: f"{run['settings'].get(name)!r} there, {settings.get(name)!r} here"
            for name in sorted({*run["settings"], *settings})
            if run["settings"].get(name) != settings.get(name)
        }
        if changed:
            listed = "; ".join(f"{name}: {what}" for name, what in changed.items())
            raise ValueError(
                f"{path} is an interrupted run with other settings ({listed}); give the same ones to go on, "
                "remove the file to start anew, or choose another --out"
            )
        leaves, tree = jax.tree.flatten((begin.x, begin.solver, begin.states))
        stored = [file.get_tensor(f"{i:06d}") for i in range(len(leaves))]
    for i, (have, want) in enumerate(zip(stored, leaves, strict=True)):
        if f"{i:06d}" in run["flags"]:
            stored[i] = have = have.astype(bool)
        if have.shape != want.shape or have.dtype != want.dtype:
            raise ValueError(
                f"{path} holds {have.dtype}{list(have.shape)} where this run has {want.dtype}"
                f"{list(want.shape)}; it is of another version: remove it to start anew"
            )
    x, solver, states = jax.tree.unflatten(tree, [jnp.asarray(a) for a in stored])
    return Progress(run["step"], x, solver, states)
