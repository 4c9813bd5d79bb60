"""Parses `--lora FILE[:SCALE]`."""

import math
import os
from collections.abc import Sequence
from pathlib import Path


def lora_files(entries: Sequence[str | Path], scale: float) -> list[tuple[Path, float]]:
    """(path, scale) of each entry, for `models.check_loras` and `models.merge_loras`.

    Args:
      entries: FILE or FILE:SCALE. A path may have colons: only a number after the last one is a scale.
      scale: of those that name none.

    Raises:
      FileNotFoundError: nothing is there.
      ValueError: a scale that is no finite number.
    """
    if not math.isfinite(scale):
        raise ValueError(f"lora_scale={scale} must be a finite number, such as 0.8")
    return [_path_and_scale(str(entry), scale) for entry in entries]


def _path_and_scale(entry: str, scale: float) -> tuple[Path, float]:
    path, _, tail = entry.rpartition(":")
    number = _number(tail)
    if not path or number is None or (os.path.lexists(entry) and not os.path.lexists(path)):
        if path and not os.path.lexists(entry) and os.path.lexists(path):
            raise ValueError(f"--lora {entry}: {tail!r} must be a number, such as {path}:0.8")
        path, number = entry, scale
    if not math.isfinite(number):
        raise ValueError(f"--lora {entry}: its scale must be a finite number, such as {path}:0.8")
    if not os.path.lexists(path):
        raise FileNotFoundError(f"no file {path}; give --lora a .safetensors file, FILE[:SCALE]")
    return Path(path), number


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
