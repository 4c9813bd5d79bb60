"""Configurations: a frozen dataclass per model with the field names of its config.json."""

import contextlib
import dataclasses
import math
import re
import types
import warnings
from collections.abc import Mapping
from typing import Any, TypeVar, get_origin, get_type_hints

Config = TypeVar("Config")


def config_from_json(cls: type[Config], document: Mapping[str, Any]) -> Config:
    """A `cls` from the contents of a config.json, entries checked as in `fields_from_json`.

    Entries that start with "_" are ignored, and so are unknown entries that are None. Other unknown entries give a
    warning that names them, as in diffusers.
    """
    fields = fields_from_json(cls, document)
    unknown = sorted(
        name
        for name, value in document.items()
        if name not in fields and not name.startswith("_") and value is not None
    )
    if unknown:
        warnings.warn(
            f"{cls.__name__} has no {unknown} and leaves them out: compare the outputs with the "
            "original's before you trust this checkpoint",
            stacklevel=2,
        )
    return cls(**fields)


def fields_from_json(cls: type, document: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a config.json that are fields of `cls`, with tuples for lists.

    One rule for all: a value has the type that the dataclass says. A number stands without quotes, is finite and not
    negative (4.0 is a whole number, true is none). A whole number is from 1 to 2**24, or from 0 where the default is 0
    or the class lists the field in `MAY_BE_ZERO`. null stands only where it means something: to leave a default, leave
    the entry out.

    Raises:
      ValueError: a value of another type, or a field without a default is absent; the message has the field and the
        rule.
    """
    hints, known = get_type_hints(cls), {}
    for field in dataclasses.fields(cls):
        if field.name in document:
            value = document[field.name]
            least = 0 if field.default == 0 or field.name in getattr(cls, "MAY_BE_ZERO", ()) else 1
            try:
                known[field.name] = _read(hints[field.name], value, least)
            except _Misfit:
                remedy = (
                    "" if field.default is dataclasses.MISSING else "; leave it out for the default"
                )
                raise ValueError(
                    f"{cls.__name__} {field.name}={value!r} must be {_say(hints[field.name], least)}{remedy}"
                ) from None
    required = [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING]
    if missing := [name for name in required if name not in known]:
        raise ValueError(f"{cls.__name__} lacks {', '.join(missing)}; take a complete config.json")
    return known


_MOST = 2**24
"""Of a whole number: far beyond every real one, and a table of so many entries still fits."""


class _Misfit(Exception):
    """A value is not of its field's type."""


def _read(kind: Any, value: Any, least: int) -> Any:
    """`value` as a field of type `kind` holds it; whole numbers are at least `least`."""
    if isinstance(kind, types.UnionType):
        for each in kind.__args__:
            with contextlib.suppress(_Misfit):
                return _read(each, value, least)
    elif get_origin(kind) is tuple:
        if not isinstance(value, list | tuple):
            raise _Misfit
        kinds = kind.__args__
        if kinds[1:] == (...,):
            kinds = kinds[:1] * len(value)
        if len(kinds) == len(value):
            # Signs of entries are free: means of latents are negative, too.
            return tuple(
                _number(v) if k is float else _read(k, v, least)
                for k, v in zip(kinds, value, strict=True)
            )
    elif kind in (int, float):
        number = _number(value)
        if kind is float and number >= 0:
            return number
        if kind is int and number == int(number) and least <= number <= _MOST:
            return int(number)
    elif isinstance(value, kind):
        return value
    raise _Misfit


def _number(value: Any) -> int | float:
    """`value`, if JSON would call it a number and it is finite."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _Misfit
    return value


def _say(kind: Any, least: int) -> str:
    if isinstance(kind, types.UnionType):
        return " or ".join(_say(each, least) for each in kind.__args__)
    if get_origin(kind) is tuple:
        first, *rest = kind.__args__
        what = "numbers" if first is float else f"values that are each {_say(first, least)}"
        return f"a list of {'' if rest == [...] else f'{1 + len(rest)} '}{what}"
    return {
        int: f"a whole number from {least} to {_MOST}, without quotes",
        float: "a finite number from 0 up, without quotes",
        bool: "true or false",
        str: "a text in quotes",
        types.NoneType: "null",
    }[kind]


def check_counts(config: Any, tensors: int) -> None:
    """Refuses a configuration of more layers than its weights have tensors, before so many layers are made.

    Raises:
      ValueError: with field and rule.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if _COUNTS.search(field.name) and isinstance(value, int) and value > tensors:
            raise ValueError(
                f"{type(config).__name__} {field.name}={value} is more than the {tensors} tensors of the weights, and "
                "a layer has one at least; take config.json and weights from one checkpoint"
            )


_COUNTS = re.compile(r"layers|res_blocks")
"""Names of fields that count layers."""


def config_to_json(config: Any, class_name: str) -> dict[str, Any]:
    """The contents of a config.json, for `config_from_json` and for diffusers."""
    return {"_class_name": class_name, **dataclasses.asdict(config)}


def require_positive(config: Any, *names: str) -> None:
    """ValueError unless every named number, or entry of a tuple of them, is above 0 (None passes)."""
    for name in names:
        value = getattr(config, name)
        values = value if isinstance(value, tuple) else (value,)
        if not all(number is None or number > 0 for number in values):
            raise ValueError(f"{type(config).__name__} {name}={value} must be above 0")


def require(config: Any, **allowed: tuple) -> None:
    """ValueError unless every named field has one of the values that are implemented."""
    for name, values in allowed.items():
        value = getattr(config, name)
        if value not in values:
            raise ValueError(
                f"{type(config).__name__} {name}={value!r} is not implemented; it must be "
                f"{' or '.join(map(repr, values))}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Heads:
    """What follows from a transformer's `num_attention_heads` and `attention_head_dim`, under our names."""

    num_attention_heads: int
    attention_head_dim: int

    @property
    def num_heads(self) -> int:
        """Heads of an attention."""
        return self.num_attention_heads

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.attention_head_dim

    @property
    def dim(self) -> int:
        """Channels of a token inside the model."""
        return self.num_attention_heads * self.attention_head_dim
