"""Checks that the files of a pipeline's encoders are complete, by names, sizes and headers, without torch or jax."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # or either with .index.json and its parts


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
      FileNotFoundError: there is none, or a link to nowhere.
      ValueError: the file holds something else.
    """
    _check_there(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as problem:
        raise ValueError(f"{path} is no JSON ({problem}); download it again") from problem
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold an object {{...}}; download it again")
    return value


def parts_of(index: dict[str, Any], *, without: Collection[str]) -> list[str]:
    """Names of the folders that a model_index.json lists, but `without`, and but those that it leaves empty."""
    listed = {name: value for name, value in index.items() if isinstance(value, list)}
    return [name for name, value in listed.items() if name not in without and None not in value]


def check_parts(folder: Path, parts: Collection[str]) -> None:
    """Refuses a folder that lacks one of `parts`, or an encoder's weights or a piece of them.

    Raises:
      FileNotFoundError: something is missing; the message names it.
      ValueError: a file is not whole.
    """
    for part in parts:
        here = folder / part
        if not here.is_dir() or not any(here.iterdir()):
            raise FileNotFoundError(
                f"{folder} has no {part}/, which its model_index.json lists; download it too"
            )
        if part.startswith(("text_encoder", "image_encoder")):
            read_object(here / "config.json")
            for file in _weights(here):
                _check_there(file)
                if file.suffix == ".safetensors":
                    _check_whole(file)


def _weights(here: Path) -> list[Path]:
    for name in _WEIGHTS:
        index = here / f"{name}.index.json"
        if index.is_symlink() or index.exists():
            files = read_object(index).get("weight_map")
            if not isinstance(files, dict) or not files:
                raise ValueError(
                    f"{index} must map names to files in weight_map; download it again"
                )
            return [here / file for file in sorted(set(files.values()))]
        if (here / name).is_symlink() or (here / name).exists():
            return [here / name]
    found = sorted(path.name for path in here.iterdir())
    raise FileNotFoundError(
        f"{here} has no {' or '.join(_WEIGHTS)} and no index of parts, but {', '.join(found)}; download the "
        "weights under these names (a variant such as fp16 has others: rename it)"
    )


def _check_there(path: Path) -> None:
    if path.is_symlink() and not path.exists():
        raise FileNotFoundError(f"{path} is a link to nowhere; download the file again")
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; download it")


def _check_whole(path: Path) -> None:
    """A safetensors file says in its header where it ends: 8 bytes of length, JSON, data."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length) if 2 <= length <= size - 8 else b""
    try:
        tensors = json.loads(header)
        tensors.pop("__metadata__", None)
        end = 8 + length + max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as problem:
        raise ValueError(
            f"{path} is no safetensors file or only a pointer to one; download it again"
        ) from problem
    if end != size:
        raise ValueError(f"{path} has {size} bytes where its header says {end}; download it again")
