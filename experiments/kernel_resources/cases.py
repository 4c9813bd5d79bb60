"""The Mosaic kernels that are shipped, each in every configuration that its module lists."""

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pallas_kernels

Case = tuple[str, Callable[..., Any], tuple[Any, ...]]


def modules() -> list[str]:
    """Names of the modules that hold Mosaic kernels: pallas_kernels/OP/mosaic_gpu*.py."""
    root = Path(pallas_kernels.__file__).parent
    files = sorted(root.glob("*/mosaic_gpu*.py"))
    holding = [path for path in files if "plgpu.kernel(" in path.read_text(encoding="utf-8")]
    return [f"pallas_kernels.{path.parent.name}.{path.stem}" for path in holding]


def of_module(name: str) -> list[Case]:
    """What `name` ships: its `shipped_configs()`, as (name, function, abstract arguments).

    Raises:
      AttributeError: the module holds a kernel and lists nothing.
      NotImplementedError: its kernels need a newer jax.
    """
    return list(importlib.import_module(name).shipped_configs())


def shipped() -> Iterator[Case]:
    """All cases of all modules, named "OP: CONFIG"."""
    for name in modules():
        for case, function, arguments in of_module(name):
            yield f"{name.split('.')[1]}: {case}", function, arguments
