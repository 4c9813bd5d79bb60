"""Configurations measured on a GPU. They replace what the heuristics choose.

    {"block_mass,128,384,384,bfloat16": {"stages": 2}, ...}

A key is kernel, head dim, block_q, block_kv, dtype; kernels are block_sparse_attention, its _dq and
_dkv, and block_mass. A value holds the fields of the kernel's `Config` that differ from what its
heuristics choose. The table is the file that SPARSEVDIT_MEASURED names, else measured_h200.json
beside this module; without either there is none.
"""

import dataclasses
import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax.numpy as jnp

ENVIRONMENT = "SPARSEVDIT_MEASURED"
SHIPPED = Path(__file__).with_name("measured_h200.json")
Config = TypeVar("Config")


def override(
    config: Config,
    check: Callable[[Config], None],
    kernel: str,
    head_dim: int,
    block_q: int,
    block_kv: int,
    dtype: Any,
) -> Config:
    """`config`, with what the table says of this kernel on these blocks.

    Args:
      config: the heuristics' choice, a dataclass.
      check: raises ValueError for a configuration that does not fit.
      kernel: name in the table.
      head_dim: D.
      block_q: tokens of the caller's query blocks.
      block_kv: tokens of the caller's key blocks.
      dtype: of q, k and v.

    Raises:
      ValueError: the table is no table, or its entry has other fields or types or does not fit.
    """
    path = os.environ.get(ENVIRONMENT) or str(SHIPPED)
    key = f"{kernel},{head_dim},{block_q},{block_kv},{jnp.dtype(dtype).name}"
    fields = _read(path).get(key)
    if not fields:
        return config
    now = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}  # pyrefly: ignore[bad-argument-type]
    try:
        for name, value in fields.items():
            if name not in now:
                raise ValueError(
                    f"{name!r} is no field of {type(config).__name__}: {', '.join(now)}"
                )
            if type(value) is not type(now[name]):
                raise ValueError(f"{name}={value!r} must be of type {type(now[name]).__name__}")
            if type(value) is int and value < 1:
                raise ValueError(f"{name}={value} must be positive")
        measured = type(config)(**now | fields)
        check(measured)
    except ValueError as problem:
        raise ValueError(f"{path}, entry {key!r}: {problem}; correct or remove it") from problem
    return measured


@functools.cache
def _read(path: str) -> dict[str, dict[str, Any]]:
    """The table of a file, read once; empty if the shipped one is absent."""
    if path == str(SHIPPED) and not SHIPPED.exists():
        return {}
    try:
        table = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise ValueError(
            f"cannot read {path} ({problem}); {ENVIRONMENT} must name a JSON file, or be unset"
        ) from problem
    if not isinstance(table, dict) or not all(isinstance(row, dict) for row in table.values()):
        raise ValueError(
            f'{path} must hold {{"kernel,head_dim,block_q,block_kv,dtype": {{field: value}}}}'
        )
    return table
