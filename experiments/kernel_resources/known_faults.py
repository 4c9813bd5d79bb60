"""Faults of kernels that are shipped all the same, each with its reason.

An entry goes when its fault goes: a case that it names and that has become sound fails the tests too.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from experiments.kernel_resources.deviceless import Compiled


class Known(NamedTuple):
    """One fault of some cases.

    Attributes:
      cases: regular expression that matches their names as a whole.
      fault: part of what `Compiled.faults` says of each of them.
      reason: why they are shipped.
    """

    cases: str
    fault: str
    reason: str


KNOWN: tuple[Known, ...] = ()


def unexpected(compiled: Iterable[Compiled], known: Iterable[Known] = KNOWN) -> list[str]:
    """Faults that are not known, and known ones that are gone, in one line each."""
    lines = []
    for case in compiled:
        expected = [entry for entry in known if re.fullmatch(entry.cases, case.name)]
        faults = case.faults()
        new = [f for f in faults if not any(entry.fault in f for entry in expected)]
        lines += [f"{case.name}: {fault}" for fault in new]
        gone = [entry for entry in expected if not any(entry.fault in f for f in faults)]
        lines += [
            f"{case.name}: no longer {entry.fault!r}; narrow or delete {entry.cases!r} in known_faults.py"
            for entry in gone
        ]
    return lines


def stale(names: Iterable[str], known: Iterable[Known] = KNOWN) -> list[str]:
    """Entries that name none of these cases."""
    names = list(names)
    return [entry.cases for entry in known if not any(re.fullmatch(entry.cases, n) for n in names)]
