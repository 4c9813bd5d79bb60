"""The functions for users: they check LoRA files against a model and merge them into it."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparsevdit_jax.parallel import put

from ..keys import Slot, checkpoint_slots
from .files import LoraFile
from .names import Names
from .plan import Delta, check_values, deltas_of

_log = logging.getLogger(__name__)

Files = Sequence[tuple[str | Path, float]]


def check_loras(model: Any, files: Files) -> list[str]:
    """Makes sure that `merge_loras(model, files)` will work. Changes nothing and compiles nothing.

    First the headers of all files are compared with the model (names, shapes, ranks, settings), then all values are
    read: none may be NaN or infinite, or too large for the weights' dtype.

    Args:
      model: a transformer of ours; it may be without weights (`nnx.eval_shape`).
      files: (path, scale) of each LoRA; see `merge_loras`.

    Returns:
      A line for each thing that a user should know, such as how many tensors of a file are skipped because they
      belong to a text encoder, or to an image branch that the model does not have.

    Raises:
      As `merge_loras`.
    """
    return _planned(model, files)[1]


def merge_loras(
    model: Any, files: Files, *, say: Callable[[str], None] = _log.warning
) -> list[str]:
    """Adds LoRAs to the weights of `model`, in place: W += scale (alpha / r) B A, or scale times a difference.

    The sum over all files is float32 and is rounded once to the weight's dtype. alpha comes from the file (tensors
    `MODULE.alpha` or diffusers' metadata) or from PEFT's adapter_config.json beside it; without, it is r.
    Rank-stabilised LoRAs divide by sqrt(r).

    Args:
      model: a transformer of ours.
      files: (path, scale) of each LoRA: a .safetensors file, or a folder that PEFT or diffusers saved. models/README.md
        lists the layouts. A scale of -1 takes a merged LoRA out again, up to rounding.
      say: called with each line that `check_loras` would return; by default they are logged.

    Returns:
      Names of the checkpoint's modules that changed.

    Raises:
      FileNotFoundError: no such file.
      ValueError: a file that is not a LoRA of this model, or a sum too large for a weight's dtype (float16 ends at
        65504); nothing has changed then, by none of the files.
    """
    deltas, notes = _planned(model, files)
    for note in notes:
        say(note)
    slots = checkpoint_slots(model, type(model).KEYS)
    for name, parts in deltas.items():
        slot = slots[name]
        delta = slot.from_checkpoint(_sum(parts, slot.shape))
        slot.parameter.set_value(_added(slot.parameter[...], delta))
    return sorted({name.removesuffix(".weight").removesuffix(".bias") for name in deltas})


def merge_lora(model: Any, path: str | Path, *, scale: float = 1.0) -> list[str]:
    """`merge_loras` of one file."""
    return merge_loras(model, [(path, scale)])


def _planned(model, files: Files) -> tuple[dict[str, list[Delta]], list[str]]:
    """What every tensor of the checkpoint gets, and what to tell the user."""
    names = Names(model)
    deltas: dict[str, list[Delta]] = {}
    notes = []
    opened = [(LoraFile.open(path), scale) for path, scale in files]
    for file, scale in opened:
        found, said = deltas_of(file, scale, names)
        notes += said
        for delta in found:
            deltas.setdefault(delta.target, []).append(delta)
    bounds: dict[Delta, float] = {}
    for file, _ in opened:
        own = [d for parts in deltas.values() for d in parts if d.file is file]
        bounds |= check_values(file, own)
    slots = checkpoint_slots(model, type(model).KEYS)
    full = [
        name
        for name, parts in deltas.items()
        if not _has_room(slots[name], parts, sum(bounds[part] for part in parts))
    ]
    if full:
        dtype = slots[full[0]].parameter.dtype
        raise ValueError(
            f"merging {', '.join(str(file.path) for file, _ in opened)} would make numbers too large for {dtype} in "
            f"{len(full)} of {len(deltas)} tensors, such as {full[0]}; take smaller scales, or weights in "
            "bfloat16 or float32"
        )
    return deltas, list(dict.fromkeys(notes))


def _has_room(slot: Slot, parts: Sequence[Delta], bound: float) -> bool:
    """Whether a weight's dtype holds its sum with `parts`, of which no number exceeds `bound`.

    Where the weight is not known, only what cannot fit any is told. The sum itself is made where bounds do not decide.
    """
    old = (
        slot.parameter.get_value()
    )  # of a model without weights a shape, which [...] does not take
    largest = float(jnp.finfo(old.dtype).max)
    known = not isinstance(old, jax.ShapeDtypeStruct)
    if old.dtype == jnp.float16:
        peak = float(jnp.abs(old).max()) if known else 0.0
    else:
        peak = largest / 2  # no weight is that large: it need not be looked at
    if peak + bound <= largest:
        return True
    delta = _sum(parts, slot.shape)
    if not known:
        return bool(np.abs(delta).max() <= 2 * largest)
    new = _added(old, slot.from_checkpoint(delta))
    return bool((jnp.isfinite(new) | ~jnp.isfinite(old)).all())


def _sum(parts: Sequence[Delta], shape: tuple[int, ...]) -> np.ndarray:
    return sum((part.array(shape) for part in parts[1:]), parts[0].array(shape))


def _added(old, delta: np.ndarray):
    new = jnp.asarray(old, jnp.float32) + put(np.ascontiguousarray(delta), old.sharding)
    return new.astype(old.dtype)
