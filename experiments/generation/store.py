"""Keeps a denoising run on disk: every few steps, so that it can resume, and its latents until the video exists."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from experiments import hosts
from experiments.new_file import written_whole
from models.pipelines import Progress

VERSION = 3
"""Of the files: 1 noted the names of what a run had read, and not their content."""
KEY = "run"
"""In a file's metadata, of what it is."""
_LATENTS = "latents"
_SHOWN = 60

Steps = Sequence[tuple[str, float]]


@dataclasses.dataclass(frozen=True)
class Denoised:
    """The end of a run.

    Attributes:
      x: float32, on the host.
      steps: phase (or "dense") and seconds of those that one process made up to the end.
    """

    x: np.ndarray
    steps: Steps


def save_progress(path: Path, progress: Progress, settings: Mapping[str, Any]) -> None:
    """Writes `progress` and what the run was started with; the file before it stays until this one is whole.

    Every process must call it; the first one writes.

    Raises:
      FloatingPointError: the latents are not finite; the file before stays.
    """
    leaves = jax.tree.leaves((progress.x, progress.solver, progress.states))
    arrays = {f"{i:06d}": hosts.to_host(leaf) for i, leaf in enumerate(leaves)}
    _check_finite(arrays["000000"], f"after step {progress.step}", path)
    if not hosts.is_first():
        return
    flags = [name for name, a in arrays.items() if a.dtype == bool]
    arrays |= {name: arrays[name].astype(np.uint8) for name in flags}
    _write(path, arrays, settings, step=progress.step, flags=flags)


def load_progress(path: Path, begin: Progress, settings: Mapping[str, Any]) -> Progress:
    """The run in `path`, or `begin` where there is no such file.

    Args:
      begin: the state before the first step; gives structure, shapes and dtypes.
      settings: what this run is started with.

    Raises:
      ValueError: as `check_kept`, or shapes of another version.
    """
    run = check_kept(path, settings)
    if run is None:
        return begin
    leaves, tree = jax.tree.flatten((begin.x, begin.solver, begin.states))
    stored = []
    with safe_open(str(path), framework="numpy") as file:
        names = sorted(file.keys())
        if len(names) != len(leaves):
            raise ValueError(
                f"{path} holds {len(names)} arrays where this run has {len(leaves)}; it is of another version: "
                "remove it to start anew"
            )
        for name, want in zip(names, leaves, strict=True):
            have = file.get_tensor(name)
            have = have.astype(bool) if name in run["flags"] else have
            if have.shape != want.shape or have.dtype != want.dtype:
                raise ValueError(
                    f"{path} holds {have.dtype}{list(have.shape)} where this run has {want.dtype}"
                    f"{list(want.shape)}; it is of another version: remove it to start anew"
                )
            stored.append(have)
    x, solver, states = jax.tree.unflatten(tree, [jnp.asarray(a) for a in stored])
    return Progress(run["step"], x, solver, states)


def save_latents(path: Path, denoised: Denoised, settings: Mapping[str, Any]) -> None:
    """Keeps the end of a run; every process must call it, the first one writes.

    Raises:
      FloatingPointError: the latents are not finite.
    """
    _check_finite(denoised.x, "at the end", path)
    if hosts.is_first():
        steps = [list(step) for step in denoised.steps]
        _write(path, {_LATENTS: denoised.x}, settings, steps=steps)


def load_latents(path: Path, settings: Mapping[str, Any]) -> Denoised | None:
    """The end of the run in `path`; None where there is no such file. Raises as `check_kept`."""
    run = check_kept(path, settings)
    if run is None:
        return None
    with safe_open(str(path), framework="numpy") as file:
        return Denoised(file.get_tensor(_LATENTS), [tuple(step) for step in run["steps"]])


def check_kept(path: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a kept file says of its run, from its header; None where there is no such file.

    Raises:
      ValueError: the file is damaged, of another version, or of a run with other settings; the message names them.
    """
    if not path.exists():
        return None
    try:
        with safe_open(str(path), framework="numpy") as file:
            metadata = file.metadata() or {}
    except Exception as problem:  # safetensors has an exception of its own for every kind of damage
        raise ValueError(
            f"{path} is damaged ({problem}); remove it to start anew, or choose another --out"
        ) from problem
    if KEY not in metadata:
        raise ValueError(
            f"{path} is not the file of an interrupted run; choose another --out, or move it away"
        )
    try:
        run = json.loads(metadata[KEY])
    except ValueError as problem:
        raise ValueError(
            f"{path} is damaged ({problem}); remove it to start anew, or choose another --out"
        ) from problem
    if (version := run.get("version", 1)) != VERSION:
        raise ValueError(
            f"{path} was written by another version of this program (files of version {version}, here {VERSION}); go "
            "on with that one, remove the file to start anew, or choose another --out"
        )
    # Through JSON, as what is there has gone: a tuple has become a list.
    there, here = run["settings"], json.loads(json.dumps(dict(settings)))
    changed = [name for name in sorted({*there, *here}) if there.get(name) != here.get(name)]
    if changed:
        listed = "; ".join(
            f"{name}: {_short(there.get(name))} there, {_short(here.get(name))} here"
            for name in changed
        )
        raise ValueError(
            f"{path} is an interrupted run with other settings ({listed}); give the same ones to go on, "
            "remove the file to start anew, or choose another --out"
        )
    return run


def _write(path: Path, arrays, settings: Mapping[str, Any], **run) -> None:
    document = json.dumps({"version": VERSION, "settings": dict(settings), **run})
    with written_whole(path, replace=True) as part:
        save_file(arrays, str(part), metadata={KEY: document})


def _check_finite(x: np.ndarray, when: str, path: Path) -> None:
    if not np.isfinite(x).all():
        kept = f"; {path} holds the last steps before" if path.exists() else ""
        raise FloatingPointError(
            f"the latents hold NaN or infinity {when}{kept}: try --dtype float32, another --seed or less --guidance"
        )


def _short(value: Any) -> str:
    text = repr(value)
    if len(text) <= _SHOWN:
        return text
    return f"{text[:_SHOWN]}... (sha256 {hashlib.sha256(text.encode()).hexdigest()[:8]})"
