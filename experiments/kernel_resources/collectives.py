"""Counts what a compiled program moves between devices, from its text."""

import math
import re
from collections.abc import Iterator

KINDS = ("all-to-all", "all-gather", "all-reduce", "reduce-scatter", "collective-permute")
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4}
_OPERATION = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(-start)?\(")
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\]")


def count(program: str) -> dict[str, dict[str, int]]:
    """Collectives of a compiled program, by kind: how many, and the bytes that each device receives.

    Its own part, which a device keeps, is counted too, so that the sum of an all-to-all is the size of what is
    exchanged and that of an all-gather the size of what is gathered. A loop's body counts once.

    Args:
      program: `Compiled.as_text()`.
    """
    found: dict[str, dict[str, int]] = {}
    for kind, size in _operations(program):
        row = found.setdefault(kind, {"count": 0, "bytes": 0})
        row["count"] += 1
        row["bytes"] += size
    return found


def _operations(program: str) -> Iterator[tuple[str, int]]:
    for line in program.splitlines():
        if match := _OPERATION.search(line):
            shape, kind, start = match.groups()
            arrays = [_size(*array) for array in _ARRAY.findall(shape)]
            # An asynchronous operation's result is (operands, results, ...).
            if start and kind != "all-reduce" and len(arrays) > 1:
                arrays = arrays[len(arrays) // 2 :] if kind != "collective-permute" else arrays[1:2]
            yield kind, sum(arrays)


def _size(dtype: str, shape: str) -> int:
    return _BYTES[dtype] * math.prod(int(n) for n in shape.split(",") if n)
