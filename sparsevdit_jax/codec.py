"""Patterns as JSON values: ``{"pattern": "sliding_tile.SlidingTile", "tile": [6, 8, 8], ...}``.

A name is resolved by importing its module: `sparsevdit_jax.patterns.<module>` where that exists, else
the module itself, so that a pattern of your own needs no registration. Reading a file thus imports the
modules that it names, as Python's `import` would. It makes patterns and nothing else.
"""

import dataclasses
import importlib
import inspect
import re
from collections.abc import Iterable
from typing import Any, cast

from sparsevdit_jax.pattern import AttentionPattern

_PACKAGE = "sparsevdit_jax.patterns"
_NAME = re.compile(
    r"((?:[A-Za-z_][A-Za-z0-9_]*\.)*[A-Za-z_][A-Za-z0-9_]*)\.([A-Za-z_][A-Za-z0-9_]*)"
)


def encode(value: Any) -> Any:
    """A pattern, or a field of one, as what `json` can write."""
    if isinstance(value, AttentionPattern):
        fields = {
            f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(cast(Any, value))
        }
        if "pattern" in fields:
            raise ValueError(
                f"{type(value).__name__} has a field 'pattern', which stands for the class in JSON; "
                "give the field another name"
            )
        return {"pattern": class_name(type(value)), **fields}
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


def class_name(cls: type) -> str:
    """The name of a pattern's class in JSON: "sliding_tile.SlidingTile", or "your_module.YourPattern".

    Raises:
      ValueError: the name would not lead back to the class.
    """
    package, _, module = cls.__module__.rpartition(".")
    name = f"{module if package == _PACKAGE else cls.__module__}.{cls.__qualname__}"
    try:
        found = _find(name)
    except ValueError:
        found = None
    if found is not cls:
        raise ValueError(
            f"{cls.__qualname__} of {cls.__module__} cannot be written as JSON, because {name!r} does "
            "not name it; put it at the top of a module that can be imported, and that is not called "
            f"like one of {_PACKAGE}"
        )
    return name


def _find(name):
    parts = _NAME.fullmatch(name) if isinstance(name, str) else None
    if parts:
        module, cls_name = parts.groups()
        cls = getattr(_import(f"{_PACKAGE}.{module}") or _import(module), cls_name, None)
        is_pattern = inspect.isclass(cls) and issubclass(cls, AttentionPattern)
        if is_pattern and dataclasses.is_dataclass(cls):
            return cls
    raise ValueError(
        f"unknown pattern {name!r}; it must name a class of {_PACKAGE}, such as "
        "'sliding_tile.SlidingTile', or a pattern of a module that can be imported, such as "
        "'my_module.MyPattern'"
    )


def _import(module):
    """The module; None if there is none of this name."""
    if module == "__main__":
        return None
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as problem:
        if problem.name and (module == problem.name or module.startswith(f"{problem.name}.")):
            return None
        raise ValueError(
            f"module {module} of a pattern needs {problem.name}, which is missing"
        ) from problem
