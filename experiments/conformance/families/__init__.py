"""Families of vector files. A module here lists its own in `FAMILIES`: start of the names -> checks.

`FAMILIES["sta_"]` is called with the opened file of "sta_a_odd.npz" and yields a `Check` for each array
that it compares. The longest start that fits a name decides.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from experiments.conformance.check import Check

Checks = Callable[[Mapping[str, Any]], Iterable[Check]]


def _collect() -> dict[str, Checks]:
    found: dict[str, Checks] = {}
    for info in pkgutil.iter_modules(__path__, f"{__name__}."):
        for start, checks in importlib.import_module(info.name).FAMILIES.items():
            if start in found:
                raise ValueError(f"two modules check the family {start!r}; leave one")
            found[start] = checks
    return found


FAMILIES: dict[str, Checks] = _collect()


def family_of(name: str) -> str | None:
    """The longest known start of a file's name; None: the family is not known."""
    return max((start for start in FAMILIES if name.startswith(start)), key=len, default=None)
