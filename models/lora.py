"""LoRA files (diffusers / PEFT format) merged into a model's weights."""

import json
import re
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import safe_open

from sparsevdit_jax.parallel import put

from .keys import checkpoint_slots

PREFIX = "transformer."
_METADATA = "lora_adapter_metadata"
_PARTS = {
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora_B.bias": "bias",
    ".alpha": "alpha",
    # older names of the same
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
}


def merge_lora(model: Any, path: str | Path, *, scale: float = 1.0) -> list[str]:
    """Adds a LoRA to the weights of `model`, in place: W += scale (alpha / r) B A.

    The sum is float32 and is rounded once to the weight's dtype. alpha comes from the file (tensors `MODULE.alpha`
    or diffusers' metadata); without, it is r, as in diffusers. Rank-stabilised LoRAs divide by sqrt(r).

    Args:
      model: a transformer of ours.
      path: a .safetensors file whose names are "transformer.MODULE.lora_A.weight" and ".lora_B.weight", MODULE as
        in the model's own checkpoint; the prefix may be absent.
      scale: strength; -1 takes a merged LoRA out again, up to rounding.

    Returns:
      Names of the modules that changed.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not such a file, or modules, ranks or shapes that do not fit; nothing is changed then.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no LoRA at {path}; give the path of a .safetensors file")
    try:
        file = safe_open(str(path), framework="numpy")
    except Exception as problem:  # safetensors has an exception of its own for every kind of damage
        raise ValueError(f"{path} is not a whole safetensors file ({problem})") from problem
    with file:
        modules = _modules(path, file.keys())
        metadata = json.loads((file.metadata() or {}).get(_METADATA, "{}"))
        settings = {name.removeprefix(PREFIX): value for name, value in metadata.items()}
        slots = checkpoint_slots(model, type(model).KEYS)
        shapes = {
            n: tuple(file.get_slice(n).get_shape()) for p in modules.values() for n in p.values()
        }
        _check(path, modules, shapes, slots)
        for module, parts in modules.items():
            down, up = (np.asarray(file.get_tensor(parts[p]), np.float32) for p in ("down", "up"))
            rank = down.shape[0]
            alpha = float(settings.get("lora_alpha", rank))
            alpha = float(_of_pattern(settings.get("alpha_pattern"), module, alpha))
            if "alpha" in parts:
                alpha = float(file.get_tensor(parts["alpha"]).reshape(()))
            factor = scale * alpha / (rank**0.5 if settings.get("use_rslora") else rank)
            delta = factor * (up.reshape(up.shape[0], rank) @ down.reshape(rank, -1))
            slot = slots[f"{module}.weight"]
            _add(slot.parameter, slot.from_checkpoint(delta.reshape(slot.shape)))
            if "bias" in parts:
                bias = np.asarray(file.get_tensor(parts["bias"]), np.float32)
                _add(slots[f"{module}.bias"].parameter, factor * bias)
    return sorted(modules)


def _of_pattern(pattern, module, default):
    """PEFT's rule: the first key that is the module's name or a regular expression for its end, from a dot on."""
    for key, value in (pattern or {}).items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return default


def _modules(path, names) -> dict[str, dict[str, str]]:
    modules: dict[str, dict[str, str]] = {}
    strange = []
    for name in names:
        suffix = next((s for s in _PARTS if name.endswith(s)), None)
        if suffix is None:
            strange.append(name)
            continue
        module = name.removesuffix(suffix).removeprefix(PREFIX)
        modules.setdefault(module, {})[_PARTS[suffix]] = name
    if strange or not modules:
        raise ValueError(
            f"{path} holds {len(strange)} tensors that are no LoRA of a linear layer, such as "
            f"{sorted(strange)[:3]}; known endings are {sorted(_PARTS)} (DoRA and full differences are not merged)"
        )
    return modules


def _check(path, modules, shapes, slots) -> None:
    problems = []
    for module, parts in sorted(modules.items()):
        if absent := {"down", "up"} - parts.keys():
            problems.append(f"{module}: its {' and '.join(sorted(absent))} projection is missing")
            continue
        if f"{module}.weight" not in slots:
            problems.append(f"{module}: the model has no such module")
            continue
        want = slots[f"{module}.weight"].shape
        down, up = shapes[parts["down"]], shapes[parts["up"]]
        if (up[0], *down[1:]) != want or up[1] != down[0] or set(up[2:]) - {1}:
            problems.append(f"{module}: {up} x {down} does not give the weight's {want}")
        if "bias" in parts and f"{module}.bias" not in slots:
            problems.append(f"{module}: the model's module has no bias")
    if problems:
        raise ValueError(
            f"{path} does not fit this model (names must be those of its diffusers checkpoint):\n  "
            + "\n  ".join(problems[:50])
        )


def _add(parameter, delta) -> None:
    old = parameter[...]
    new = jnp.asarray(old, jnp.float32) + put(np.ascontiguousarray(delta), old.sharding)
    parameter.set_value(new.astype(old.dtype))
