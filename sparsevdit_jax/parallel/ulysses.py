"""Ulysses: one all-to-all exchanges tokens for heads, another leads back.

DeepSpeed-Ulysses (arXiv 2309.14509). Differs: heads are assigned to devices so that each has about
the same work (`balance`), and the number of devices need divide neither tokens nor heads.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels._pytree import pytree, static

from .balance import assign_heads
from .mesh import Shards, head_spec, row_axes, spec

Array = jax.Array | np.ndarray


@pytree
class LocalHeads:
    """Which of the heads that a pattern serves are on this device; made inside of `exchange`.

    Attributes:
      index: int32 [h], the number of each head here among those that the pattern serves. Numbers from
        `count` on mean that the place is empty.
      count: heads that the pattern serves, on all devices.
    """

    index: jax.Array
    count: int = static()

    def take(self, x: Any, axis: int) -> jax.Array:
        """Entries of the heads here; zeros for empty places."""
        return jnp.take(jnp.asarray(x), self.index, axis=axis, mode="fill", fill_value=0)

    def gather(self, x: jax.Array, axis: int) -> jax.Array:
        """Entries of all heads, in order."""
        order = jax.lax.all_gather(self.index, "seq", tiled=True)
        x = jax.lax.all_gather(x, "seq", axis=axis, tiled=True)
        return jnp.take(x, jnp.argsort(order)[: self.count], axis=axis)


def mean_over_rows(x: jax.Array) -> jax.Array:
    """Mean of `x` [B, ...] over the batch rows of all devices."""
    x = x.mean(0)
    axes = row_axes()
    return jax.lax.pmean(x, axes) if axes else x


def assign(work: Any, count: int, step: Any, devices: int) -> Array:
    """Which head each place holds, int32 [ceil(count / devices) * devices]; see `assign_heads`.

    Args:
      work: of each head, [count], or of each step and head, [steps, count]; None: equal.
      count: heads.
      step: the row of `work`, which may be traced.
      devices: n.
    """
    if work is None or devices == 1:
        return np.arange(-(-count // devices) * devices, dtype=np.int32)
    if work.ndim == 1:
        return assign_heads(work, devices)
    rows = np.stack([assign_heads(row, devices) for row in work])
    return jnp.take(rows, step, axis=0, mode="clip")


def exchange(
    f: Callable[..., tuple[tuple[jax.Array, ...], Any, Any]],
    tokens: Sequence[jax.Array],
    states: Sequence[Any],
    data: Any,
    *,
    groups: Sequence[Sequence[int]],
    places: Sequence[Array],
    shards: Shards,
) -> tuple[tuple[jax.Array, ...], Any, Any]:
    """Calls ``f(tokens, heads, states, data)`` on every device, with whole sequences of its rows and heads.

    Every device holds equally many heads of each group, group after group. So one program runs on all
    devices, and `f` may still treat the groups differently.

    Args:
      f: takes arrays like `tokens`, the `LocalHeads` of each group, the states of these heads, and
        data of these rows. It gives arrays like `tokens`, a tree of arrays [B, h, ...], and states.
      tokens: arrays [B, L, H, D].
      states: of each group, a tree of arrays [B, H of the group, ...], or with fewer than two axes,
        which are the same on every device.
      data: tree of arrays [B, ...], or with no axis, which are the same on every device.
      groups: heads of each group; every head is in one of them.
      places: of each group, from `assign`.
      shards: the present mesh.

    Returns:
      The results of `f` for all rows and heads: tokens sharded by tokens, the tree by heads.
    """
    batch, length, num_heads, _ = tokens[0].shape
    shards.check_rows(batch)
    n = shards.tokens
    layout = _layout(groups, places, num_heads, n)
    sizes = [len(heads) for heads in groups]
    laid_out = tuple(
        jax.tree.map(lambda a, at=at, size=size: _place(a, at, size), state)
        for state, at, size in zip(states, places, sizes, strict=True)
    )

    def body(tokens, states, data, layout, places):
        tokens = tuple(_to_heads(x, layout, n)[:, :length] for x in tokens)
        heads = [
            LocalHeads(index, size) if n > 1 else None
            for index, size in zip(places, sizes, strict=True)
        ]
        out, by_head, states = f(tokens, heads, states, data)
        return tuple(_to_tokens(x, n) for x in out), by_head, states

    by_tokens, by_heads = spec(4, tokens=1), spec(2, tokens=1)
    of_states = jax.tree.map(_state_spec, laid_out)
    run = jax.shard_map(
        body,
        in_specs=(
            by_tokens,
            of_states,
            jax.tree.map(lambda a: spec(np.ndim(a), rows=0 if np.ndim(a) else None), data),
            None if layout is None else spec(1, rows=None),
            spec(1, rows=None, tokens=0),
        ),
        out_specs=(by_tokens, by_heads, of_states),
        check_vma=False,
    )
    padding = ((0, 0), (0, -length % n), (0, 0), (0, 0))
    padded = tuple(jnp.pad(x, padding) if length % n else x for x in tokens)
    out, by_head, states = run(padded, laid_out, data, layout, tuple(map(jnp.asarray, places)))
    states = tuple(
        jax.tree.map(lambda a, at=at, size=size: per_head(_unplace(a, at, size)), state)
        for state, at, size in zip(states, places, sizes, strict=True)
    )
    out = tuple(x[:, :length] for x in out)
    if layout is not None:
        back = jnp.argsort(jnp.asarray(layout))[:num_heads]
        out = tuple(jnp.take(x, back, axis=2) for x in out)
        by_head = jax.tree.map(lambda x: jnp.take(x, back, axis=1), by_head)
    return out, by_head, states


def per_head(x: jax.Array) -> jax.Array:
    """`x` [B, H, ...] with each head on the device that holds it, where heads divide."""
    return jax.lax.with_sharding_constraint(x, head_spec(x.shape))


def _layout(groups, places, num_heads, n):
    """Model head of each place, device after device; None where heads stay as they are."""
    columns = []
    for heads, at in zip(groups, places, strict=True):
        xp = np if isinstance(at, np.ndarray) else jnp
        numbers = np.append(np.asarray(heads, np.int32), np.int32(num_heads))
        columns.append(xp.take(numbers, xp.minimum(at, len(heads))).reshape(n, -1))
    xp = np if all(isinstance(c, np.ndarray) for c in columns) else jnp
    layout = xp.concatenate(columns, axis=1).reshape(-1)
    stays = xp is np and np.array_equal(layout, np.arange(num_heads))
    return None if stays else layout.astype(np.int32)


def _is_identity(places, size):
    return isinstance(places, np.ndarray) and np.array_equal(places, np.arange(size))


def _place(a, places, size):
    """Heads of a state's array as they are assigned, zeros for those that are none."""
    if np.ndim(a) < 2 or _is_identity(places, size):
        return a
    return jnp.take(jnp.asarray(a), places, axis=1, mode="fill", fill_value=0)


def _unplace(a, places, size):
    if a.ndim < 2 or _is_identity(places, size):
        return a
    return jnp.take(a, jnp.argsort(jnp.asarray(places))[:size], axis=1)


def _state_spec(a):
    return spec(np.ndim(a), tokens=1) if np.ndim(a) >= 2 else spec(np.ndim(a), rows=None)


def _to_heads(x, layout, n):
    """[b, L / n, H, D] of one device to [b, L, H' / n, D]."""
    if layout is not None:
        x = jnp.take(x, layout, axis=2, mode="fill", fill_value=0)
    return jax.lax.all_to_all(x, "seq", 2, 1, tiled=True) if n > 1 else x


def _to_tokens(x, n):
    if n == 1:
        return x
    x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % n), (0, 0), (0, 0)))
    return jax.lax.all_to_all(x, "seq", 1, 2, tiled=True)
