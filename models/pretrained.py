"""Models from folders in the layout of diffusers and transformers, and back.

    transformer = models.load_transformer("Wan2.1-T2V-1.3B-Diffusers", dtype=jnp.bfloat16)
    models.save_transformer(transformer, "my-model/transformer")

A folder is a whole pipeline's, with a subfolder for each part, or that of the part itself. `config.json` says by
`_class_name` (text encoders: `architectures`) which class it is. Tensors are read one at a time: the peak of the
host's memory is the weights and one tensor. No torch.
"""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from .abstract import planned, without_weights
from .cogvideox import CogVideoXTransformer
from .cogvideox_vae import CogVideoXVAE
from .combine import combine_of
from .config import check_counts, config_from_json, config_to_json
from .files import checkpoint_folder, contents, is_file, read_json
from .hunyuan_video import HunyuanVideoTransformer
from .hunyuan_video_vae import HunyuanVideoVAE
from .keys import Slot, check_fit, checkpoint_slots, original_names
from .t5 import T5Encoder
from .tensors import Sharding, TensorFiles, fill, variants, write_shards
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


@dataclasses.dataclass(frozen=True)
class _Part:
    """Where a part's classes are, what its files are called, and which of an index and a single file wins."""

    classes: dict[str, Any]
    stem: str
    index_first: bool


_PARTS = {
    "transformer": _Part(TRANSFORMERS, "diffusion_pytorch_model", True),
    "vae": _Part(VAES, "diffusion_pytorch_model", True),
    "text_encoder": _Part(TEXT_ENCODERS, "model", False),  # as in transformers
}
MAX_SHARD_BYTES = 5 * 10**9  # diffusers' "5GB"


def load_transformer(
    folder: str | Path, *, dtype=None, sharding: Sharding = None, variant: str | None = None
) -> Any:
    """The video transformer of a checkpoint folder.

    Args:
      folder: a pipeline's folder (with `transformer/`) or the transformer's own.
      dtype: of weights and compute: bfloat16, float16 or float32. What the original keeps in float32 stays so.
        None: each tensor as it is stored, compute in the dtype that most of them have.
      sharding: where each weight goes: one `Sharding` for all, or a function of (name in the checkpoint, shape
        in our layout) that gives it. None: the default device. Each of several hosts reads the files.
      variant: such as "fp16": the files with that word in their names. As in diffusers, a part of a pipeline without
        such files takes its plain files, if another part has such files.

    Returns:
      The model, such as a `models.wan.WanTransformer`.

    Raises:
      OSError: no such folder, no config.json or weights in it, or a shard is missing.
      ValueError: another kind of model, a damaged or quantised file, or names and shapes that do not fit the model;
        the message lists all of them.
    """
    return _load(folder, "transformer", dtype, sharding, variant)


def load_vae(
    folder: str | Path, *, dtype=None, sharding: Sharding = None, variant: str | None = None
) -> Any:
    """The VAE of a checkpoint folder (a pipeline's, with `vae/`, or its own); see `load_transformer`."""
    return _load(folder, "vae", dtype, sharding, variant)


def load_text_encoder(
    folder: str | Path, *, dtype=None, sharding: Sharding = None, variant: str | None = None
) -> Any:
    """The T5 or UMT5 of a checkpoint folder (a pipeline's, with `text_encoder/`, or its own); see
    `load_transformer`. Of a whole T5 it ignores the decoder.
    """
    return _load(folder, "text_encoder", dtype, sharding, variant)


def check_weights(
    folder: str | Path, part: str, *, dtype=None, variant: str | None = None
) -> list[Path]:
    """Raises what loading a part would raise, from its config.json and the headers of its files.

    No tensor is read and nothing is compiled: it takes about a second for the largest models.

    Args:
      folder: as in `load_transformer`.
      part: "transformer", "vae" or "text_encoder".
      dtype: as in `load_transformer`; a later `planned` of the same costs nothing.
      variant: as in `load_transformer`.

    Returns:
      The files that hold the weights.

    Raises:
      OSError, ValueError: as `load_transformer`.
    """
    if part not in _PARTS:
        raise ValueError(f"{part=} must be {', '.join(_PARTS)}")
    _, _, files = _open(folder, part, dtype, variant, planned)
    return sorted(set(files.files.values()))


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
    _save(model, folder, "transformer", max_shard_bytes)


def save_vae(model: Any, folder: str | Path, *, max_shard_bytes=MAX_SHARD_BYTES) -> None:
    """Writes a VAE as `load_vae` reads it; see `save_transformer`."""
    _save(model, folder, "vae", max_shard_bytes)


def save_text_encoder(model: Any, folder: str | Path, *, max_shard_bytes=MAX_SHARD_BYTES) -> None:
    """Writes a text encoder as `load_text_encoder` reads it; see `save_transformer`."""
    _save(model, folder, "text_encoder", max_shard_bytes)


def part_folder(folder: str | Path, part: str) -> Path:
    """`FOLDER/PART` of a pipeline's folder, or the folder itself where it is the part's own.

    Raises:
      FileNotFoundError: neither holds a config.json.
    """
    folder = checkpoint_folder(folder)
    for candidate in (folder / part, folder):
        if is_file(candidate / "config.json"):
            return candidate
    raise FileNotFoundError(f"no {part}/config.json and no config.json: {contents(folder)}")


def read_config(folder: str | Path, part: str, registry: Mapping[str, Any]) -> tuple[str, Any]:
    """Class name and configuration of one part of a checkpoint; reads no weights. Raises as `load_transformer`."""
    path = part_folder(folder, part) / "config.json"
    document = read_json(path)
    name = _class_name(document, path, part, registry)
    if document.get("quantization_config") is not None:
        raise ValueError(
            f"{path} has a quantization_config; quantised weights are not read: take the unquantised checkpoint"
        )
    cls = registry[name]
    read = getattr(cls, "read_config", None)  # where config.json is not as diffusers writes it
    try:
        config = read(document) if read else config_from_json(cls.config_class, document)
    except ValueError as problem:
        raise ValueError(f"{path}: {problem}") from problem
    if hasattr(config, "combine"):
        names = _tensor_names(path.parent, _PARTS[part].stem)
        config = dataclasses.replace(config, combine=combine_of(names))
    return name, config


def _tensor_names(folder: Path, stem: str) -> set[str]:
    """Names in the headers of all files of a part; damaged ones are refused where they are loaded."""
    names: set[str] = set()
    for path in folder.glob(f"{stem}*.safetensors"):
        with contextlib.suppress(ValueError, OSError):
            names.update(TensorFiles.of_file(path).files)
    return names


def _load(folder, part: str, dtype, sharding: Sharding, variant: str | None):
    model, slots, files = _open(folder, part, dtype, variant, without_weights)
    fill(slots, files, cast=dtype is not None, sharding=sharding)
    return model


def _open(
    folder, part: str, dtype, variant: str | None, make: Callable[[Any, Any, Any], Any]
) -> tuple[Any, dict[str, Slot], TensorFiles]:
    """The model without weights, where each of them goes, and the files that have them, which fit."""
    layout = _PARTS[part]
    name, config = read_config(folder, part, layout.classes)
    cls, folder = layout.classes[name], part_folder(folder, part)
    files = TensorFiles.open(
        folder,
        layout.stem,
        variant=_variant(folder, part, variant),
        index_first=layout.index_first,
    )
    aliases = dict(getattr(cls, "ALIASES", {}))
    if getattr(cls, "READS_ORIGINAL", False):
        aliases |= original_names(files.files, cls.ORIGINAL)
    files = files.called(aliases, getattr(cls, "IGNORED", ()))
    files.check_dtypes()
    compute = jnp.dtype(files.main_dtype() if dtype is None else dtype)
    if compute not in (jnp.bfloat16, jnp.float16, jnp.float32):
        raise ValueError(f"{dtype=} must be bfloat16, float16 or float32")
    try:
        check_counts(config, len(files.shapes))
    except ValueError as problem:
        raise ValueError(f"{folder / 'config.json'}: {problem}") from problem
    model = make(cls, config, compute)
    slots = checkpoint_slots(model, cls.KEYS)
    check_fit(folder, slots, files.shapes)
    return model, slots, files


def _variant(folder: Path, part: str, variant: str | None) -> str | None:
    """None where only other parts of the pipeline have files of the variant, so that this one's plain ones count."""
    if variant is None or variant in variants(folder, _PARTS[part].stem) or folder.name != part:
        return variant
    others = (folder.parent / name for name in _PARTS if name != part)
    found = any(variant in variants(other, _PARTS[other.name].stem) for other in others)
    return None if found else variant


def _class_name(document, path: Path, part: str, registry) -> str:
    named = document.get("architectures")
    names = [document.get("_class_name"), *(named if isinstance(named, list) else [named])]
    names = [name for name in names if isinstance(name, str)]
    found = [name for name in names if name in registry]
    if not found:
        raise ValueError(
            f"{path} is of {' or '.join(names) or 'nothing known'}; as {part} we have {', '.join(sorted(registry))}, "
            "in folders as diffusers and transformers save them (the original authors' are not read)"
        )
    return found[0]


def _save(model, folder, part: str, max_shard_bytes):
    registry, stem = _PARTS[part].classes, _PARTS[part].stem
    names = [name for name, cls in registry.items() if type(model) is cls]
    if not names:
        kinds = sorted({cls.__name__ for cls in registry.values()})
        raise ValueError(f"{type(model).__name__} cannot be saved here; it must be one of {kinds}")
    folder = Path(folder).expanduser()
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
