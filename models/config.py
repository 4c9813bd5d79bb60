"""Configurations: a frozen dataclass per model with the field names of its config.json."""

import dataclasses
import warnings
from typing import Any, TypeVar

Config = TypeVar("Config")


def config_from_json(cls: type[Config], document: dict[str, Any]) -> Config:
    """A `cls` from the contents of a config.json.

    Entries that start with "_" and those that are None where we have no such field are passed over; other
    unknown entries give a warning that names them, as in diffusers.
    """
    names = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(
        name
        for name, value in document.items()
        if name not in names and not name.startswith("_") and value is not None
    )
    if unknown:
        warnings.warn(
            f"{cls.__name__} has no {unknown} and leaves them out: compare the outputs with the "
            "original's before you trust this checkpoint",
            stacklevel=2,
        )
    fields = {name: value for name, value in document.items() if name in names}
    for name, value in fields.items():
        if isinstance(value, list):
            fields[name] = tuple(value)
    return cls(**fields)


def config_to_json(config: Any, class_name: str) -> dict[str, Any]:
    """The contents of a config.json, for `config_from_json` and for diffusers."""
    return {"_class_name": class_name, **dataclasses.asdict(config)}


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
