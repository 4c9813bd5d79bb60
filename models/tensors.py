"""Tensors of a checkpoint folder in the layout of diffusers and transformers: read one at a time, written in shards."""

import dataclasses
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

SUFFIX = ".safetensors"
DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
"""Safetensors' names of the dtypes that weights may have, and numpy's."""


@dataclasses.dataclass(frozen=True)
class TensorFiles:
    """Where each tensor of a checkpoint lies; nothing is read before `read`.

    Attributes:
      files: tensor name -> its file.
      shapes: tensor name -> shape as stored.
      dtypes: tensor name -> numpy's name of its dtype.
      stored: tensor name -> its name in the file, where that is another.
    """

    files: Mapping[str, Path]
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    stored: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path, stem: str) -> "TensorFiles":
        """The tensors of `STEM.safetensors` or of the shards that `STEM.safetensors.index.json` lists.

        Raises:
          FileNotFoundError: neither is there, or a shard is missing.
          ValueError: a file is damaged, is not what the index says, or holds dtypes we do not read.
        """
        paths = _paths(folder, stem)
        files, shapes, dtypes = {}, {}, {}
        for path in paths:
            for name, (shape, dtype) in _header(path).items():
                if name in files:
                    raise ValueError(f"{name} is in {files[name]} and in {path}; remove one")
                files[name], shapes[name], dtypes[name] = path, shape, dtype
        if odd := {n: d for n, d in dtypes.items() if d not in DTYPES}:
            raise ValueError(
                f"{folder} holds dtypes {sorted(set(odd.values()))} (such as {next(iter(odd))}); "
                f"weights must be {', '.join(DTYPES)}: take the unquantised checkpoint"
            )
        return cls(files, shapes, {name: DTYPES[dtype] for name, dtype in dtypes.items()})

    def called(self, aliases: Mapping[str, str], ignored: Collection[str]) -> "TensorFiles":
        """Without the tensors in `ignored`, and with those in `aliases` under their other name, unless that is
        there too.
        """
        names = {name: aliases.get(name, name) for name in self.files if name not in ignored}
        names = {n: new for n, new in names.items() if n == new or new not in self.files}
        return TensorFiles(
            {new: self.files[n] for n, new in names.items()},
            {new: self.shapes[n] for n, new in names.items()},
            {new: self.dtypes[n] for n, new in names.items()},
            {new: self.stored.get(n, n) for n, new in names.items()},
        )

    def read(self, name: str) -> np.ndarray:
        """One tensor. Its file is mapped only meanwhile, so that pages do not pile up."""
        with safe_open(str(self.files[name]), framework="numpy") as file:
            return file.get_tensor(self.stored.get(name, name))

    def main_dtype(self) -> str:
        """The dtype that most of the scalars have."""
        totals: dict[str, int] = {}
        for name, dtype in self.dtypes.items():
            totals[dtype] = totals.get(dtype, 0) + int(np.prod(self.shapes[name]))
        return max(totals, key=totals.__getitem__)


def write_shards(
    folder: Path,
    stem: str,
    tensors: Mapping[str, Callable[[], np.ndarray]],
    sizes: Mapping[str, int],
    *,
    max_shard_bytes: int,
) -> None:
    """Writes one file, or shards and their index where the whole is larger than `max_shard_bytes`.

    Args:
      tensors: name -> a function that makes the array, called when its shard is written.
      sizes: name -> bytes.
    """
    shards: list[list[str]] = [[]]
    used = 0
    for name in sorted(tensors):
        if shards[-1] and used + sizes[name] > max_shard_bytes:
            shards.append([])
            used = 0
        shards[-1].append(name)
        used += sizes[name]
    weight_map = {}
    for i, names in enumerate(shards, start=1):
        number = f"-{i:05d}-of-{len(shards):05d}" if len(shards) > 1 else ""
        path = folder / f"{stem}{number}{SUFFIX}"
        save_file({name: tensors[name]() for name in names}, str(path), metadata={"format": "pt"})
        weight_map |= dict.fromkeys(names, path.name)
    if len(shards) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        text = json.dumps(index, indent=2, sort_keys=True) + "\n"
        (folder / f"{stem}{SUFFIX}.index.json").write_text(text, encoding="utf-8")


def _paths(folder: Path, stem: str) -> list[Path]:
    single = folder / f"{stem}{SUFFIX}"
    if single.is_file():
        return [single]
    index = folder / f"{stem}{SUFFIX}.index.json"
    if index.is_file():
        try:
            names = sorted(
                set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            )
        except (ValueError, KeyError, AttributeError) as problem:
            raise ValueError(f"{index} is damaged ({problem}); download it again") from problem
        if missing := [name for name in names if not (folder / name).is_file()]:
            raise FileNotFoundError(
                f"{folder} lacks {len(missing)} of the {len(names)} shards that {index.name} lists: "
                f"{', '.join(missing)}; download them into that folder"
            )
        return [folder / name for name in names]
    found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    raise FileNotFoundError(
        f"no weights in {folder}: it must hold {single.name}, or {index.name} with its shards"
        + (f", but holds {found[:10]}" if found else "")
        + ("; torch's .bin files are not read, save them as safetensors" if _torch(found) else "")
    )


def _torch(names: list[str]) -> bool:
    return any(name.endswith((".bin", ".pt", ".ckpt")) for name in names)


def _header(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    try:
        with safe_open(str(path), framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}
            return {n: (tuple(s.get_shape()), s.get_dtype()) for n, s in slices.items()}
    except Exception as problem:  # safetensors has an exception of its own for every kind of damage
        raise ValueError(
            f"{path} is not a whole safetensors file ({problem}); download it again"
        ) from problem
