"""@pytree: frozen dataclasses that JAX sees through, with checks at construction only."""

import dataclasses
from typing import Any, TypeVar, dataclass_transform

import jax

T = TypeVar("T")


def static(**kwargs: Any) -> Any:
    """Field that is part of the tree's structure (hashable, compared on retrace), not an array."""
    return dataclasses.field(metadata={"static": True}, **kwargs)


@dataclass_transform(frozen_default=True, field_specifiers=(static,))
def pytree(cls: type[T]) -> type[T]:
    """Makes `cls` a frozen dataclass registered as a pytree whose unflatten skips `__init__`.

    Transformations rebuild trees around tracers, shapes, specs or None, so the checks that
    `__post_init__` makes on arrays run where a user constructs a value and nowhere else.
    """
    cls = dataclasses.dataclass(frozen=True)(cls)
    fields = dataclasses.fields(cls)  # pyrefly: ignore[bad-argument-type]
    data = [f.name for f in fields if not f.metadata.get("static")]
    meta = [f.name for f in fields if f.metadata.get("static")]

    def flatten_with_keys(tree):
        leaves = [(jax.tree_util.GetAttrKey(name), getattr(tree, name)) for name in data]
        return leaves, tuple(getattr(tree, name) for name in meta)

    def flatten(tree):
        values = tuple(getattr(tree, name) for name in data)
        return values, tuple(getattr(tree, name) for name in meta)

    def unflatten(aux, leaves):
        tree = object.__new__(cls)
        for name, value in zip(data + meta, (*leaves, *aux), strict=True):
            object.__setattr__(tree, name, value)
        return tree

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls
