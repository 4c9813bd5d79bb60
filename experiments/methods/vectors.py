"""Which vector files of the authors a pattern is compared with, and the record of how it went."""

import types
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from experiments import record
from experiments.conformance.__main__ import judge
from experiments.conformance.families import FAMILIES, family_of

GOLDEN = record.ROOT / "tests" / "golden"
NAME = "conformance"


def families_of(kind: type) -> set[str]:
    """Families whose comparison names this class, itself or in a function that it calls."""
    return {family for family, checks in FAMILIES.items() if kind in _named(checks, set())}


def _named(function: Callable, seen: set) -> Iterator[Any]:
    """The global objects that a function of this repository names, and those that they name."""
    seen.add(function)
    codes, names = [function.__code__], set()
    while codes:
        code = codes.pop()
        names |= {*code.co_names}
        codes += [part for part in code.co_consts if isinstance(part, types.CodeType)]
    for name in names & function.__globals__.keys():
        value = function.__globals__[name]
        yield value
        checks = isinstance(value, types.FunctionType) and "conformance" in value.__module__
        if checks and value not in seen:
            yield from _named(value, seen)


def log(run: record.Run, families: Collection[str], folder: Path = GOLDEN) -> None:
    """Compares the vector files of some families and prints how it went; a record each.

    Raises:
      ValueError: one does not agree.
    """
    for path in sorted(folder.glob("*.npz")):
        family = family_of(path.stem)
        if family not in families:
            continue
        verdict = judge(path)
        print(verdict.line(), flush=True)
        if verdict.verdict != "ok":
            raise ValueError(f"{verdict.line()}; a page says only what holds")
        worst = max(verdict.checks, key=lambda check: check.share)
        exact = sum(check.allowed == 0 for check in verdict.checks)
        run.log(
            file=verdict.name,
            family=family,
            compared=len(verdict.checks),
            exact=exact,
            worst=worst.what if exact < len(verdict.checks) else "",
            worst_share=float(np.float32(worst.share)),
        )
