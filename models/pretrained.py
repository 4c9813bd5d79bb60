"""Models from folders in the layout of diffusers and transformers, and back.

    transformer = models.load_transformer("Wan2.1-T2V-1.3B-Diffusers", dtype=jnp.bfloat16)
    models.save_transformer(transformer, "my-model/transformer")

A folder is a whole pipeline's, with a subfolder for each part, or that of the part itself. `config.json` says by
`_class_name` (text encoders: `architectures`) which class it is. Tensors are read one at a time: the peak of the
host's memory is the weights and one tensor. No torch.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes  # noqa: F401 (numpy's bfloat16)
import numpy as np
from flax import nnx

from sparsevdit_jax.parallel import put

from .cogvideox import CogVideoXTransformer
from .cogvideox_vae import CogVideoXVAE
from .config import config_from_json, config_to_json
from .hunyuan_video import HunyuanVideoTransformer
from .hunyuan_video_vae import HunyuanVideoVAE
from .keys import Slot, checkpoint_slots
from .t5 import T5Encoder
from .tensors import TensorFiles, write_shards
from .wan import WanTransformer
from .wan_vae import WanVAE

TRANSFORMERS: dict[str, Any] = {
    cls.CLASS_NAME: cls for cls in (WanTransformer, HunyuanVideoTransformer, CogVideoXTransformer)
}
"""Class name in config.json -> our class."""
VAES: dict[str, Any] = {cls.CLASS_NAME: cls for cls in (WanVAE, HunyuanVideoVAE, CogVideoXVAE)}
"""The same of VAEs."""
TEXT_ENCODERS: dict[str, Any] = dict.fromkeys(T5Encoder.CLASS_NAMES, T5Encoder)
"""The same of text encoders."""

MAX_SHARD_BYTES = 5 * 10**9  # diffusers' "5GB"

Sharding = jax.sharding.Sharding | Callable[[str, tuple[int, ...]], jax.sharding.Sharding] | None


def load_transformer(folder: str | Path, *, dtype=None, sharding: Sharding = None) -> Any:
    """The video transformer of a checkpoint folder.

    Args:
      folder: a pipeline's folder (with `transformer/`) or the transformer's own.
      dtype: of weights and compute: bfloat16, float16 or float32. What the original keeps in float32 stays so.
        None: each tensor as it is stored, compute in the dtype that most of them have.
      sharding: where each weight goes: one `Sharding` for all, or a function of (name in the checkpoint, shape
        in our layout) that gives it. None: the default device. Of several hosts each reads the files.

    Returns:
      The model, such as a `models.wan.WanTransformer`.

    Raises:
      FileNotFoundError: no such folder, no config.json or weights in it, or a shard is missing.
      ValueError: another kind of model, or names and shapes that do not fit it; the message lists all of them.
    """
    return _load(folder, "transformer", TRANSFORMERS, _DIFFUSERS, dtype, sharding)


def load_vae(folder: str | Path, *, dtype=None, sharding: Sharding = None) -> Any:
    """The VAE of a checkpoint folder (a pipeline's, with `vae/`, or its own); see `load_transformer`."""
    return _load(folder, "vae", VAES, _DIFFUSERS, dtype, sharding)


def load_text_encoder(folder: str | Path, *, dtype=None, sharding: Sharding = None) -> Any:
    """The T5 or UMT5 of a checkpoint folder (a pipeline's, with `text_encoder/`, or its own); see
    `load_transformer`.
    """
    return _load(folder, "text_encoder", TEXT_ENCODERS, _TRANSFORMERS, dtype, sharding)


def save_transformer(model: Any, folder: str | Path, *, max_shard_bytes=MAX_SHARD_BYTES) -> None:
    """Writes `model` as `load_transformer` and diffusers read it.

    Every tensor has the dtype that the model holds, so what was loaded with ``dtype=None`` is written back bit
    for bit.

    Args:
      model: a transformer of ours.
      folder: made if need be; a config.json or weights in it are never overwritten.
      max_shard_bytes: larger weights are split into shards with an index.

    Raises:
      FileExistsError: there is a model in `folder` already.
      ValueError: not a transformer.
    """
    _save(model, folder, TRANSFORMERS, _DIFFUSERS, max_shard_bytes)


def save_vae(model: Any, folder: str | Path, *, max_shard_bytes=MAX_SHARD_BYTES) -> None:
    """Writes a VAE as `load_vae` reads it; see `save_transformer`."""
    _save(model, folder, VAES, _DIFFUSERS, max_shard_bytes)


def save_text_encoder(model: Any, folder: str | Path, *, max_shard_bytes=MAX_SHARD_BYTES) -> None:
    """Writes a text encoder as `load_text_encoder` reads it; see `save_transformer`."""
    _save(model, folder, TEXT_ENCODERS, _TRANSFORMERS, max_shard_bytes)


def part_folder(folder: str | Path, part: str) -> Path:
    """`FOLDER/PART` of a pipeline's folder, or the folder itself where it is the part's own.

    Raises:
      FileNotFoundError: neither holds a config.json.
    """
    folder = Path(folder)
    for candidate in (folder / part, folder):
        if (candidate / "config.json").is_file():
            return candidate
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}; give one in the layout of diffusers")
    raise FileNotFoundError(
        f"{folder} has no {part}/config.json and no config.json of its own, but holds "
        f"{sorted(path.name for path in folder.iterdir())[:12]}; give a folder in the layout of diffusers"
    )


def read_config(folder: str | Path, part: str, registry: Mapping[str, Any]) -> tuple[str, Any]:
    """Class name and configuration of one part of a checkpoint; reads no weights. Raises as `load_transformer`."""
    folder = part_folder(folder, part)
    document = read_json(folder / "config.json")
    name = _class_name(document, folder, part, registry)
    cls = registry[name]
    read = getattr(cls, "read_config", None)  # where config.json is not as diffusers writes it
    return name, read(document) if read else config_from_json(cls.config_class, document)


def read_json(path: Path) -> dict[str, Any]:
    """An object in a JSON file; ValueError names the file if it is damaged."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as problem:
        raise ValueError(f"{path} is not JSON ({problem}); download it again") from problem
    if not isinstance(document, dict):
        raise ValueError(f"{path} must hold an object, but holds {type(document).__name__}")
    return document


_DIFFUSERS = "diffusion_pytorch_model"
_TRANSFORMERS = "model"


def _load(folder, part, registry: Mapping[str, Any], stem, dtype, sharding):
    name, config = read_config(folder, part, registry)
    cls, folder = registry[name], part_folder(folder, part)
    files = TensorFiles.open(folder, stem)
    compute = jnp.dtype(files.main_dtype() if dtype is None else dtype)
    if compute not in (jnp.bfloat16, jnp.float16, jnp.float32):
        raise ValueError(f"{dtype=} must be bfloat16, float16 or float32")
    model = nnx.eval_shape(lambda: cls(config, dtype=compute, rngs=nnx.Rngs(0)))
    slots = checkpoint_slots(model, cls.KEYS)
    files = files.called(getattr(cls, "ALIASES", {}), getattr(cls, "IGNORED", ()))
    _compare(folder, slots, files)
    for name, slot in slots.items():
        array = slot.from_checkpoint(files.read(name))
        if dtype is not None:
            array = array.astype(slot.parameter.dtype)
        where = sharding(name, array.shape) if callable(sharding) else sharding
        if where is None or where.is_fully_addressable:
            # may_alias=False: on a CPU the device's array must not lean on the file's.
            array = jax.device_put(array, where, may_alias=False)
        else:
            array = put(array, where)
        slot.parameter.set_value(array)
    return model


def _class_name(document, folder, part, registry):
    names = [document.get("_class_name"), *document.get("architectures", ())]
    found = [name for name in names if name in registry]
    if not found:
        raise ValueError(
            f"{folder / 'config.json'} is of {' or '.join(map(str, filter(None, names))) or 'nothing known'}; "
            f"as {part} we have {', '.join(sorted(registry))}"
        )
    return found[0]


def _compare(folder, slots: Mapping[str, Slot], files: TensorFiles) -> None:
    present = files.shapes.keys()
    problems = [f"missing: {name}" for name in sorted(slots.keys() - present)]
    problems += [f"unexpected: {name}" for name in sorted(present - slots.keys())]
    problems += [
        f"{name}: the file has {files.shapes[name]}, the model needs {slots[name].shape}"
        for name in sorted(slots.keys() & present)
        if files.shapes[name] != slots[name].shape
    ]
    if problems:
        shown = "\n  ".join(problems[:200])
        more = f"\n  and {len(problems) - 200} more" if len(problems) > 200 else ""
        raise ValueError(f"the weights in {folder} do not fit its config.json:\n  {shown}{more}")


def _save(model, folder, registry, stem, max_shard_bytes):
    names = [name for name, cls in registry.items() if type(model) is cls]
    if not names:
        kinds = sorted({cls.__name__ for cls in registry.values()})
        raise ValueError(f"{type(model).__name__} cannot be saved here; it must be one of {kinds}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if there := [
        p.name for p in sorted(folder.iterdir()) if p.name == "config.json" or stem in p.name
    ]:
        raise FileExistsError(
            f"{folder} holds {', '.join(there)}, which are not overwritten; choose another folder"
        )
    slots = checkpoint_slots(model, type(model).KEYS)
    write_shards(
        folder,
        stem,
        {n: (lambda s=s: s.to_checkpoint(np.asarray(s.parameter[...]))) for n, s in slots.items()},
        {name: slot.parameter[...].nbytes for name, slot in slots.items()},
        max_shard_bytes=max_shard_bytes,
    )
    write = getattr(type(model), "write_config", None)
    document = write(model.config) if write else config_to_json(model.config, names[0])
    text = json.dumps(document, indent=2, sort_keys=True) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")
