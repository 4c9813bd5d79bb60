"""A LoRA on disk: found, its header and settings read, its tensors read one at a time."""

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import safe_open

_CONFIG = "adapter_config.json"  # PEFT's, beside the tensors
_USUAL = ("adapter_model.safetensors", "pytorch_lora_weights.safetensors")  # PEFT's, diffusers'
_METADATA = "lora_adapter_metadata"  # diffusers', in the header
_FLOATS = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
}
_INTEGERS = {"I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8}
_STARTS = {  # first bytes of what people have instead of a safetensors file
    b"PK": "torch's pickle format, which can run code",
    b"\x80": "torch's pickle format, which can run code",
    b"GGUF": "a GGUF file",
    b"version https://git-lfs": "a Git LFS pointer, not the file that it points to",
    b"<": "a web page",
}
_PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a LoRA's metadata says of its scale.

    Attributes:
      source: where that stands; "" if nowhere.
      rank, rank_pattern: of the matrices, where it is said; they are compared with the file's.
      alpha, alpha_pattern: numerators of the scale; None is the rank.
      rslora: the scale is alpha / sqrt(rank).
    """

    source: str = ""
    rank: int | None = None
    rank_pattern: Mapping[str, int] = dataclasses.field(default_factory=dict)
    alpha: float | None = None
    alpha_pattern: Mapping[str, float] = dataclasses.field(default_factory=dict)
    rslora: bool = False

    @classmethod
    def parse(cls, source: str, document: Mapping[str, Any]) -> "Settings":
        """From a PEFT configuration; ValueError names a field of a wrong type."""
        kind = document.get("peft_type", "LORA")
        if kind != "LORA":
            raise ValueError(f"{source}: peft_type={kind!r} must be 'LORA'; others are not merged")
        if document.get("use_dora"):
            raise ValueError(
                f"{source}: use_dora=true: DoRA is not merged, for it changes directions and lengths apart; "
                "merge it into the checkpoint with PEFT, or train without it"
            )
        rank, alpha = document.get("r"), document.get("lora_alpha")
        patterns = {name: document.get(name) or {} for name in ("rank_pattern", "alpha_pattern")}
        numbers = [(n, x) for n, x in (("r", rank), ("lora_alpha", alpha)) if x is not None]
        for name, pattern in patterns.items():
            if not isinstance(pattern, dict):
                raise ValueError(f"{source}: {name}={pattern!r} must be an object of numbers")
            for key, number in pattern.items():
                numbers.append((f"{name}[{key!r}]", number))
                try:
                    re.compile(key)
                except re.error as problem:
                    raise ValueError(
                        f"{source}: {name} has {key!r}, which must be a regular expression ({problem})"
                    ) from problem
        for name, number in numbers:
            if not isinstance(number, int | float) or not math.isfinite(number):
                raise ValueError(f"{source}: {name}={number!r} must be a finite number")
        return cls(
            source,
            rank,
            patterns["rank_pattern"],
            alpha,
            patterns["alpha_pattern"],
            bool(document.get("use_rslora")),
        )

    def alpha_of(self, module: str, rank: int) -> float:
        """alpha of a module."""
        default = rank if self.alpha is None else self.alpha
        return float(_of_pattern(self.alpha_pattern, module, default))

    def rank_of(self, module: str) -> int | None:
        """Its rank, where it is said."""
        return _of_pattern(self.rank_pattern, module, self.rank)


@dataclasses.dataclass(frozen=True, eq=False)
class LoraFile:
    """A safetensors file whose tensors are read one at a time.

    Attributes:
      path: of the file.
      shapes: tensor name -> shape.
      dtypes: tensor name -> safetensors' name of its dtype.
      settings: of its metadata or of the adapter_config.json beside it.
    """

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    settings: Settings
    offsets: Mapping[str, tuple[int, int]] = dataclasses.field(repr=False)

    @classmethod
    def open(cls, path: str | Path) -> "LoraFile":
        """Reads the header of a file, or of the adapter in a folder.

        Raises:
          FileNotFoundError: nothing is there.
          ValueError: something else is there.
        """
        path = _find(Path(path))
        try:
            with safe_open(str(path), framework="numpy") as file:
                metadata = file.metadata() or {}
        except Exception as problem:  # safetensors has an exception of its own for every damage
            raise ValueError(
                f"{path} is not a whole safetensors file ({problem}); download it again"
            ) from problem
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
        header.pop("__metadata__", None)
        return cls(
            path,
            {name: tuple(entry["shape"]) for name, entry in header.items()},
            {name: entry["dtype"] for name, entry in header.items()},
            _settings(path, metadata),
            {name: tuple(8 + size + x for x in e["data_offsets"]) for name, e in header.items()},
        )

    def is_read(self, name: str, *, integers: bool) -> bool:
        """Whether `read` reads its dtype; those of matrices that hold integers are quantised."""
        return self.dtypes[name] in (_FLOATS | _INTEGERS if integers else _FLOATS)

    def read(self, name: str) -> np.ndarray:
        """One tensor as float32, from any dtype."""
        with np.errstate(over="ignore"):  # `largest` tells
            return self._stored(name).astype(np.float32)

    def largest(self, name: str) -> float:
        """The largest magnitude in a tensor of floats; NaN where it holds one.

        Without their signs floats are in the order of their bits, with infinity and then NaN at the end, which is
        found much faster than by making float32 of each.
        """
        stored = self._stored(name)
        bits = stored.view(f"u{stored.itemsize}")
        unsigned = (bits & (2 ** (8 * stored.itemsize - 1) - 1)).max(initial=0)
        return float(unsigned.astype(bits.dtype).view(stored.dtype))

    def _stored(self, name: str) -> np.ndarray:
        begin, end = self.offsets[name]
        dtype = np.dtype((_FLOATS | _INTEGERS)[self.dtypes[name]])
        data = np.fromfile(self.path, np.uint8, count=end - begin, offset=begin)
        return data.view(dtype).reshape(self.shapes[name])


def _find(path: Path) -> Path:
    """The file itself; `path` may be a folder."""
    if path.is_symlink() and not path.exists():
        raise FileNotFoundError(
            f"no LoRA at {path}: it is a link to {path.readlink()}, where nothing is; download it again"
        )
    if path.is_dir():
        return _find(_in_folder(path))
    if not path.is_file():
        raise FileNotFoundError(f"no LoRA at {path}; give the path of a .safetensors file")
    with path.open("rb") as file:
        start = file.read(32)
    if not start:
        raise ValueError(f"{path} is empty; download it again")
    kind = next((kind for begins, kind in _STARTS.items() if start.lstrip().startswith(begins)), "")
    if path.suffix in _PICKLES and not kind:
        kind = _STARTS[b"PK"]
    # A safetensors file begins with its header's length, of which these may be the lowest bytes.
    if kind and start[8:9] != b"{":
        raise ValueError(f"{path} is {kind}; give a LoRA saved as .safetensors")
    return path


def _in_folder(folder: Path) -> Path:
    names = sorted(entry.name for entry in folder.iterdir())
    files = [name for name in names if name.endswith(".safetensors")]
    chosen = [name for name in _USUAL if name in files] or files
    if not chosen or (len(chosen) > 1 and chosen[0] not in _USUAL):
        raise ValueError(
            f"{folder} is a folder with {len(files)} .safetensors files, not one called "
            f"{' or '.join(_USUAL)} (it holds {names[:8]}); give the path of the LoRA's .safetensors file"
        )
    return folder / chosen[0]


def _settings(path: Path, metadata: Mapping[str, str]) -> Settings:
    if _METADATA in metadata:
        source = f"{path}'s metadata {_METADATA}"
        document = _object(source, metadata[_METADATA])
        own = {name.removeprefix("transformer."): value for name, value in document.items()}
        return Settings.parse(source, own)
    config = path.with_name(_CONFIG)
    # The configuration belongs to the file that PEFT saved with it, where that is there.
    if not config.is_file() or (path.name != _USUAL[0] and path.with_name(_USUAL[0]).exists()):
        return Settings()
    return Settings.parse(str(config), _object(str(config), config.read_bytes()))


def _object(source: str, text: str | bytes) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except ValueError as problem:
        raise ValueError(f"{source} is not JSON ({problem}); download it again") from problem
    if not isinstance(document, dict):
        raise ValueError(f"{source} must hold an object, but holds {type(document).__name__}")
    return document


def _of_pattern(pattern: Mapping[str, Any], module: str, default: Any) -> Any:
    """PEFT's rule: the first key that is the module's name or a regular expression for its end, from a dot on."""
    for key, value in pattern.items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return default
