"""Numbers that a user gives: whole ones and shares, checked in one way and kept as Python's own.

True is no number here, nan is never a share, and a NumPy scalar becomes an int or a float, so that equal
settings hash alike and can be written as JSON.
"""

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


def share(name: str, value: Any, *, zero: bool = False, remedy: str = "") -> float:
    """`value` as a float; ValueError unless it lies in (0, 1], or in [0, 1] with `zero`."""
    number = isinstance(value, int | float | np.integer | np.floating)
    sound = number and not isinstance(value, bool)
    if not sound or not (0 <= value <= 1 if zero else 0 < value <= 1):
        interval = "[0, 1]" if zero else "(0, 1]"
        raise ValueError(f"{name}={value!r} must be a number in {interval}{_then(remedy)}")
    return float(value)


def flag(name: str, value: Any) -> bool:
    """`value` as a bool; ValueError unless it is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name}={value!r} must be True or False")
    return bool(value)


def _then(remedy: str) -> str:
    return f"; {remedy}" if remedy else ""
