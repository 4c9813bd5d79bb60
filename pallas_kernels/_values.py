"""Values that a user gives, checked in one way and kept as Python's own.

True is no number here, nan is never a share, and a NumPy scalar becomes an int or a float, so that equal
settings hash alike and can be written as JSON.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np


def whole(name: str, value: Any, least: int = 0, *, remedy: str = "") -> int:
    """`value` as an int; ValueError unless it is a whole number of at least `least`."""
    sound = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not sound or value < least:
        raise ValueError(
            f"{name}={value!r} must be a whole number of at least {least}{_then(remedy)}"
        )
    return int(value)


def wholes(
    name: str, values: Any, least: int = 0, *, count: int | None = None, remedy: str = ""
) -> tuple[int, ...]:
    """`values` as ints; ValueError unless they are `count` whole numbers of at least `least`."""
    many = "" if count is None else f"{count} "
    rule = f"must be {many}whole numbers of at least {least}{_then(remedy)}"
    given = listed(name, values, rule)
    try:
        if count in (None, len(given)):
            return tuple(whole(name, value, least) for value in given)
    except ValueError:
        pass  # the message below shows all of them
    raise ValueError(f"{name}={given!r} {rule}")


def listed(name: str, values: Any, rule: str = "must be a sequence") -> tuple[Any, ...]:
    """`values` as a tuple; ValueError for what is no sequence of values, and for text."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise ValueError(f"{name}={values!r} {rule}")
    return tuple(values)


def share(name: str, value: Any, *, zero: bool = False, remedy: str = "") -> float:
    """`value` as a float; ValueError unless it lies in (0, 1], or in [0, 1] with `zero`."""
    number = isinstance(value, int | float | np.integer | np.floating)
    sound = number and not isinstance(value, bool)
    if not sound or not (0 <= value <= 1 if zero else 0 < value <= 1):
        interval = "[0, 1]" if zero else "(0, 1]"
        raise ValueError(f"{name}={value!r} must lie in {interval}{_then(remedy)}")
    return float(value)


def flag(name: str, value: Any) -> bool:
    """`value` as a bool; ValueError unless it is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name}={value!r} must be True or False")
    return bool(value)


def _then(remedy: str) -> str:
    return f"; {remedy}" if remedy else ""
