"""JAX's transformations of kernels: vmap becomes a larger batch, and constant lists stay constant."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .block_mask import BlockMask


class Constants:
    """The arrays of a mask that are numpy, known while tracing; equal to itself only.

    As an argument that JAX does not trace it takes them through `custom_vjp`, so that transposed
    lists, or an order of work, are made of them on the host and not in the program.
    """

    def __init__(self, leaves: list[np.ndarray | None], tree: Any):
        self._leaves, self._tree = leaves, tree

    def mask(self, others: tuple[jax.Array, ...], batch: int | None = None) -> BlockMask:
        """The mask again; with `batch`, that of a batch in which items repeat one after another."""
        left = iter(others)
        leaves = [next(left) if x is None else _repeated(x, batch) for x in self._leaves]
        return jax.tree.unflatten(self._tree, leaves)


def split(mask: BlockMask) -> tuple[Constants, tuple[jax.Array, ...]]:
    """The numpy arrays of a mask, and the others. Lists stay together: both or none are constant."""
    if not all(isinstance(x, np.ndarray) for x in (mask.kv_indices, mask.kv_counts)):
        mask = jax.tree.map(jnp.asarray, mask)
    leaves, tree = jax.tree.flatten(mask)
    known = [x if isinstance(x, np.ndarray) else None for x in leaves]
    others = [x for x, constant in zip(leaves, known, strict=True) if constant is None]
    return Constants(known, tree), tuple(others)


def merge_vmap(function: Callable[..., Any]) -> Callable[..., Any]:
    """function(data, lists), both tuples of arrays with the batch first, made fit for vmap.

    Arrays in `data` and all results have the same batch B, those in `lists` B or 1. An axis that
    vmap adds is merged into the batch, of which it becomes the slow part.
    """
    batched = jax.custom_batching.custom_vmap(function)

    @batched.def_vmap
    def rule(size, in_batched, data, lists):
        batch = data[0].shape[1 if in_batched[0][0] else 0]

        def merge(x, is_batched):
            x = x if is_batched else x[None]
            x = jnp.broadcast_to(x, (size, batch, *x.shape[2:]))
            return x.reshape(size * batch, *x.shape[2:])

        data = tuple(map(merge, data, in_batched[0]))
        all_vary = any(in_batched[1])  # then all are merged: indices and their counts must agree
        lists = tuple(
            merge(x, is_batched) if all_vary or x.shape[0] > 1 else x
            for x, is_batched in zip(lists, in_batched[1], strict=True)
        )
        results = batched(data, lists)
        results = jax.tree.map(lambda x: x.reshape(size, batch, *x.shape[1:]), results)
        return results, jax.tree.map(lambda _: True, results)

    return batched


def call(
    function: Callable[..., Any],
    constants: Constants,
    data: tuple[jax.Array, ...],
    others: tuple[jax.Array, ...],
) -> Any:
    """function(*data, mask) with a mask that `split` took apart; under vmap, of one larger batch."""

    def merged(data, others):
        return function(*data, constants.mask(others, data[0].shape[0]))

    return merge_vmap(merged)(data, others)


def _repeated(x, batch):
    if batch is None or x.shape[0] in (1, batch):
        return x
    return np.tile(x, (batch // x.shape[0], *[1] * (x.ndim - 1)))
