"""Checks that the attention kernels named by `--implementation` run here, before anything takes time."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from pallas_kernels import BlockMask, block_sparse_attention, dense_attention
from pallas_kernels.block_sparse_attention.api import IMPLEMENTATIONS as SPARSE
from pallas_kernels.dense_attention.api import IMPLEMENTATIONS as DENSE

_BLOCK = 64
"""Tokens of the trial call's only block: every kernel that runs here takes it."""


def check_implementation(
    name: str | None, *, head_dim: int, dtype: str, sparse: bool = True
) -> None:
    """Refuses a name that no attention has, or whose kernels cannot run on this device.

    The operations themselves are asked, by a call of one block that is traced and not compiled. block_mass is not
    among them: the library chooses its implementation by itself.

    Args:
      name: None, the library's own choice, passes.
      head_dim: channels of a head.
      dtype: of queries, keys and values.
      sparse: whether anything but dense attention runs.

    Raises:
      ValueError: with what can be named instead.
    """
    if name is None:
        return
    operations = {"dense attention": (DENSE, _dense)}
    if sparse:
        operations["block-sparse attention"] = SPARSE, _sparse
    q = jax.ShapeDtypeStruct((1, _BLOCK, 1, head_dim), jnp.dtype(dtype))
    works = [n for n in DENSE if all(_refusal(n, *o, q) is None for o in operations.values())]
    for operation, (known, call) in operations.items():
        if why := _refusal(name, known, call, q):
            raise ValueError(
                f"--implementation {name} cannot run {operation} here ({why}); choose {' or '.join(works)}, or leave "
                "it out"
            )


def _refusal(name: str, known: Mapping[str, Any], call: Callable, q: Any) -> str | None:
    if name not in known:
        return f"there are {', '.join(known)}"
    try:
        jax.eval_shape(lambda q: call(q, name), q)
    except NotImplementedError as problem:
        return str(problem)
    return None


def _dense(q, name):
    return dense_attention(q, q, q, implementation=name)


def _sparse(q, name):
    mask = BlockMask.full(1, 1, block_q=_BLOCK, block_kv=_BLOCK)
    return block_sparse_attention(q, q, q, mask, implementation=name)
