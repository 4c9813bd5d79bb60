"""Tensors of a checkpoint (one file, or a folder in the layout of diffusers and transformers), read one at a time."""

import dataclasses
import fnmatch
import glob
import json
import math
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import jax
import ml_dtypes  # noqa: F401 (numpy's bfloat16)
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from sparsevdit_jax.parallel import put

from .files import check_content, contents, is_file, read_json
from .keys import Slot

SUFFIX = ".safetensors"
DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float32"}
"""Safetensors' names of the dtypes that weights may have, and numpy's names of what they are read as."""

Sharding = jax.sharding.Sharding | Callable[[str, tuple[int, ...]], jax.sharding.Sharding] | None
"""Where each weight goes; see `models.load_transformer`."""


@dataclasses.dataclass(frozen=True)
class TensorFiles:
    """Where each tensor of a checkpoint lies; nothing is read before `read`.

    Attributes:
      files: tensor name -> its file.
      shapes: tensor name -> shape as stored.
      dtypes: tensor name -> safetensors' name of its dtype.
      stored: tensor name -> its name in the file, where that is another.
    """

    files: Mapping[str, Path]
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    stored: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def open(
        cls, folder: Path, stem: str, *, variant: str | None = None, index_first: bool = True
    ) -> "TensorFiles":
        """The tensors of `STEM.safetensors`, or of the shards that `STEM.safetensors.index.json` lists.

        Args:
          folder: that holds them.
          stem: of the files' names.
          variant: such as "fp16", of `STEM.fp16.safetensors` and `STEM.safetensors.index.fp16.json`.
          index_first: which wins where both are there: True as in diffusers, False as in transformers.

        Raises:
          FileNotFoundError: neither is there, or a shard is missing.
          ValueError: a file is damaged, or is not what the index says.
        """
        index, single = _index(folder, stem, variant), folder / _single(stem, variant)
        if index is not None and (index_first or not is_file(single)):
            listed = _shards(index)
        elif is_file(single):
            listed = {single: []}
        else:
            raise FileNotFoundError(_absent(folder, stem, variant))
        return cls._of(listed, index)

    @classmethod
    def of_file(cls, path: Path) -> "TensorFiles":
        """The tensors of one file; raises as `open`."""
        return cls._of({path: []})

    @classmethod
    def _of(cls, listed: Mapping[Path, list[str]], index: Path | None = None) -> "TensorFiles":
        files, shapes, dtypes = {}, {}, {}
        for path, names in listed.items():
            header, _ = _header(path)
            if absent := [name for name in names if name not in header]:
                raise ValueError(
                    f"{index} places {len(absent)} tensors in {path.name} that are not there, such as {absent[0]}; "
                    "the files are of two downloads: download the folder again"
                )
            for name, (shape, dtype) in header.items():
                if name in files:
                    raise ValueError(f"{name} is in {files[name]} and in {path}; remove one")
                files[name], shapes[name], dtypes[name] = path, shape, dtype
        return cls(files, shapes, dtypes)

    def called(self, aliases: Mapping[str, str], ignored: Collection[str]) -> "TensorFiles":
        """Without the tensors that a pattern in `ignored` matches ("*" is anything), and with those in `aliases`
        under their other name, unless that is there too.
        """
        names = {
            name: aliases.get(name, name)
            for name in self.files
            if not any(fnmatch.fnmatchcase(name, pattern) for pattern in ignored)
        }
        names = {n: new for n, new in names.items() if n == new or new not in self.files}
        return TensorFiles(
            {new: self.files[n] for n, new in names.items()},
            {new: self.shapes[n] for n, new in names.items()},
            {new: self.dtypes[n] for n, new in names.items()},
            {new: self.stored.get(n, n) for n, new in names.items()},
        )

    def check_dtypes(self) -> None:
        """ValueError if a tensor is quantised or otherwise of a dtype that weights here do not have."""
        odd = {name: dtype for name, dtype in self.dtypes.items() if dtype not in DTYPES}
        scales = [name for name in self.dtypes if _SCALE.search(name)]
        if not odd and not scales:
            return
        name = next(iter(odd), *scales[:1])
        what = (
            f"tensors of {', '.join(sorted(set(odd.values())))}"
            if odd
            else "scales of quantised weights"
        )
        raise ValueError(
            f"{self.files[name].parent} holds {what} (such as {name}); quantised weights, float8 included, are not "
            f"read, only {', '.join(DTYPES)}: take the unquantised checkpoint"
        )

    def read(self, name: str) -> np.ndarray:
        """One tensor, float64 as float32. Its file is mapped only meanwhile, so that pages do not pile up."""
        with safe_open(str(self.files[name]), framework="numpy") as file:
            tensor = file.get_tensor(self.stored.get(name, name))
        return tensor.astype(np.float32) if tensor.dtype == np.float64 else tensor

    def main_dtype(self) -> str:
        """Numpy's name of the dtype that most of the scalars are read as."""
        totals: dict[str, int] = {"float32": 0}
        for name, dtype in self.dtypes.items():
            kind = DTYPES[dtype]
            totals[kind] = totals.get(kind, 0) + math.prod(self.shapes[name])
        return max(totals, key=totals.__getitem__)


def fill(
    slots: Mapping[str, Slot], files: TensorFiles, *, cast: bool, sharding: Sharding = None
) -> None:
    """Reads a model's weights into their slots, which `check_fit` has compared with the files.

    Args:
      cast: to the dtypes that the model has; else each stays as it is stored.
      sharding: see `models.load_transformer`.
    """
    for name, slot in slots.items():
        array = slot.from_checkpoint(files.read(name))
        if cast:
            array = array.astype(slot.parameter.dtype)
        where = sharding(name, array.shape) if callable(sharding) else sharding
        if where is not None and not where.is_fully_addressable:
            array = put(array, where)
        else:  # may_alias=False: on a CPU the device's array must not lean on the file's
            array = jax.device_put(array, where, may_alias=False)
        slot.parameter.set_value(array)


def read_metadata(path: Path) -> dict[str, str]:
    """What a file says beside its tensors; raises as `TensorFiles.of_file`."""
    return _header(path)[1]


def write_file(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes one file; FileExistsError if there is one, so that no weights are lost without a word."""
    if path.exists():
        raise FileExistsError(f"{path} exists and is not overwritten; choose another name")
    save_file(dict(arrays), str(path), metadata=dict(metadata))


def variants(folder: Path, stem: str) -> list[str]:
    """The variants of which there are files, such as ["fp16"]."""
    patterns = (
        rf"{re.escape(stem)}\.(?P<v>[^.]+?)(-\d+-of-\d+)?\.safetensors(\.index\.json)?",
        rf"{re.escape(stem)}-\d+-of-\d+\.(?P<v>[^.]+)\.safetensors",
        rf"{re.escape(stem)}\.safetensors\.index\.(?P<v>[^.]+)\.json",
    )
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    matches = [re.fullmatch(pattern, name) for name in names for pattern in patterns]
    return sorted({match["v"] for match in matches if match})


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
        write_file(path, {name: tensors[name]() for name in names}, {"format": "pt"})
        weight_map |= dict.fromkeys(names, path.name)
    if len(shards) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        text = json.dumps(index, indent=2, sort_keys=True) + "\n"
        (folder / f"{stem}{SUFFIX}.index.json").write_text(text, encoding="utf-8")


_SCALE = re.compile(
    r"(^|[._])(scale_weight|scale_input|weight_scale|input_scale|weight_scale_inv|scaled_fp8|scb|absmax|quant_map|"
    r"quant_state|qweight|qzeros|weight_format)([._]|$)",
    re.IGNORECASE,
)
"""Names that quantised checkpoints have beside their weights: ComfyUI's, bitsandbytes', GPTQ's and others'."""


def _single(stem: str, variant: str | None) -> str:
    return f"{stem}{f'.{variant}' if variant else ''}{SUFFIX}"


def _index(folder: Path, stem: str, variant: str | None) -> Path | None:
    names = [f"{stem}{SUFFIX}.index{f'.{variant}' if variant else ''}.json"]
    names += [f"{_single(stem, variant)}.index.json"] if variant else []  # transformers' older name
    return next((folder / name for name in names if is_file(folder / name)), None)


def _shards(index: Path) -> dict[Path, list[str]]:
    """The files that an index lists, and the tensors that it places in each."""
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places or not all(map(_is_name, places.values())):
        raise ValueError(
            f"{index} is damaged: its weight_map must give each tensor the name of a file beside it; download it again"
        )
    shards: dict[Path, list[str]] = {}
    for name, file in sorted(places.items(), key=lambda place: (place[1], place[0])):
        shards.setdefault(index.parent / file, []).append(name)
    if missing := [path for path in shards if not path.is_file()]:
        dangling = " (links that point nowhere)" if any(p.is_symlink() for p in missing) else ""
        raise FileNotFoundError(
            f"{index.parent} lacks {len(missing)} of the {len(shards)} shards that {index.name} lists: "
            f"{', '.join(path.name for path in missing)}{dangling}; download them into that folder"
        )
    return shards


def _is_name(file: object) -> bool:
    return isinstance(file, str) and file.endswith(SUFFIX) and Path(file).name == file


def _absent(folder: Path, stem: str, variant: str | None) -> str:
    there = variants(folder, stem)
    if variant is not None:
        return (
            f"no weights of the variant {variant} in {folder}; "
            + (f"there are {', '.join(there)}" if there else "there is no other either")
            + ("" if variant in there else ": leave --variant out or give one that is there")
        )
    if there:
        return (
            f"no weights in {folder} but of the variant {' or '.join(there)}; give --variant {there[0]} "
            f"(variant={there[0]!r})"
        )
    if list(folder.glob(f"{glob.escape(stem)}-*-of-*{SUFFIX}")):
        return f"{folder} has shards but no {stem}{SUFFIX}.index.json, which lists them; download it into that folder"
    return (
        f"no weights in {folder}: it must hold {_single(stem, None)}, or {stem}{SUFFIX}.index.json with its shards; "
        + contents(folder)
    )


def _header(path: Path) -> tuple[dict[str, tuple[tuple[int, ...], str]], dict[str, str]]:
    """Shape and dtype of each tensor, and the metadata."""
    if not is_file(path):
        raise FileNotFoundError(f"no weights at {path}; give the path of a {SUFFIX} file")
    check_content(path)
    try:
        with safe_open(str(path), framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}
            shapes = {n: (tuple(s.get_shape()), s.get_dtype()) for n, s in slices.items()}
            return shapes, file.metadata() or {}
    except Exception as problem:  # safetensors has an exception of its own for every kind of damage
        raise ValueError(
            f"{path} is not a whole safetensors file ({problem}; it has {path.stat().st_size} bytes); download it again"
        ) from problem
