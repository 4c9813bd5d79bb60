"""Patterns as JSON values: ``{"pattern": "sliding_tile.SlidingTile", "tile": [6, 8, 8], ...}``.

The module path is the registry: the name is resolved by importing
`sparsevdit_jax.patterns.<module>`, and nothing else can be named.
"""

import dataclasses
import importlib
import inspect
import re
from collections.abc import Iterable
from typing import Any, cast

from sparsevdit_jax.pattern import AttentionPattern

_PACKAGE = "sparsevdit_jax.patterns"
_NAME = re.compile(r"[a-z][a-z0-9_]*\.[A-Z][A-Za-z0-9]*")


def encode(value: Any) -> Any:
    """A pattern, or a field of one, as what `json` can write."""
    if isinstance(value, AttentionPattern):
        cls = type(value)
        package, _, module = cls.__module__.rpartition(".")
        if package != _PACKAGE:
            raise ValueError(
                f"{cls.__qualname__} lives in {cls.__module__}; only patterns of {_PACKAGE} can be "
                "written as JSON"
            )
        fields = {
            f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(cast(Any, cls))
        }
        return {"pattern": f"{module}.{cls.__name__}", **fields}
    if isinstance(value, tuple | list):
        return [encode(v) for v in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(f"{value!r} of type {type(value).__name__} cannot be written as JSON")


def decode(value: Any) -> Any:
    """The inverse of `encode`; lists become tuples. ValueError for an unknown pattern or field."""
    if isinstance(value, list):
        return tuple(decode(v) for v in value)
    if isinstance(value, dict):
        fields = {name: decode(v) for name, v in value.items() if name != "pattern"}
        return build(_find(value.get("pattern")), fields)
    return value


def build(cls: type, fields: dict[str, Any]) -> Any:
    """An instance of the dataclass `cls`; ValueError for fields unknown or missing."""
    if not isinstance(fields, dict):
        raise ValueError(f"{cls.__name__} must be an object with its fields, not {fields!r}")
    known = dataclasses.fields(cls)
    needed = [
        f.name
        for f in known
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    check_fields(cls.__name__, fields, [f.name for f in known], needed)
    try:
        return cls(**fields)
    except (TypeError, AttributeError) as error:
        raise ValueError(f"{cls.__name__} cannot be made from {fields}: {error}") from error


def check_fields(what: str, fields: dict, known: Iterable[str], needed: Iterable[str]) -> None:
    """ValueError if `fields` has a name that is not known, or lacks one that is needed."""
    unknown, missing = sorted(set(fields) - set(known)), sorted(set(needed) - set(fields))
    if unknown or missing:
        raise ValueError(
            f"{what} has unknown fields {unknown} and lacks {missing}; known are {sorted(known)}. "
            "Was it written by another version?"
        )


def _find(name):
    if isinstance(name, str) and _NAME.fullmatch(name):
        module, _, cls_name = name.partition(".")
        try:
            cls = getattr(importlib.import_module(f"{_PACKAGE}.{module}"), cls_name, None)
        except ModuleNotFoundError:
            cls = None
        if (
            inspect.isclass(cls)
            and issubclass(cls, AttentionPattern)
            and not inspect.isabstract(cls)
        ):
            return cls
    raise ValueError(
        f"unknown pattern {name!r}; it must name a class of {_PACKAGE}, such as "
        "'sliding_tile.SlidingTile'"
    )
