"""Assigns heads to devices: equally many to each, with about the same work."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def assign_heads(work: Any, devices: int) -> Any:
    """Assigns heads to devices so that each device has about the same work (Ulysses).

    Each round gives every device one of the heads with the most work left, the largest of them to
    the device with the least work so far. If `work` is concrete, pairs of heads are then swapped
    as long as a swap takes work from the busiest device.

    Args:
      work: of each head, [H], such as its kept blocks; may be traced.
      devices: n.

    Returns:
      int32 [ceil(H / n) n], the head of each place. The first ceil(H / n) places are on device 0, and
      so on. Numbers from H on mean that the place is empty.
    """
    heads = work.shape[0]
    xp: Any = jnp if isinstance(work, jax.Array) else np
    padded = xp.concatenate([work, xp.zeros(-heads % devices, work.dtype)])
    largest_first = xp.argsort(-padded, stable=True).astype(np.int32).reshape(-1, devices)
    load, rounds = xp.zeros(devices, work.dtype), []
    for row in largest_first:
        # rank of each device by load: the least loaded takes the round's first head
        taken = row[xp.argsort(xp.argsort(load, stable=True), stable=True)]
        load = load + padded[taken]
        rounds.append(taken)
    assigned = xp.stack(rounds, axis=1)
    if xp is np:
        assigned = _swap(assigned, padded.astype(np.float64))
    return assigned.reshape(-1).astype(np.int32)


def imbalance(work: np.ndarray, devices: int, order: np.ndarray | None = None) -> float:
    """Work of the busiest device / mean work of a device, 1 at best.

    Args:
      work: of each head, [H].
      devices: n.
      order: from `assign_heads`; None: heads in the order of their numbers.
    """
    order = np.arange(-(-work.shape[0] // devices) * devices) if order is None else order
    padded = np.concatenate([work, np.zeros(len(order) - work.shape[0], work.dtype)])
    load = padded[order].reshape(devices, -1).sum(-1, dtype=np.float64)
    return float(load.max() / load.mean()) if load.any() else 1.0


def _swap(assigned: np.ndarray, work: np.ndarray) -> np.ndarray:
    """`assigned` [n, heads of a device] after the best swaps with the busiest device."""
    assigned = assigned.copy()
    while True:
        load = work[assigned].sum(-1)
        most = int(load.argmax())
        # moved[i, d, j]: what the busiest loses if its place i trades with place j of device d
        moved = work[assigned[most]][:, None, None] - work[assigned][None]
        higher = np.maximum(load[most] - moved, load[None, :, None] + moved)
        higher[:, most] = np.inf
        i, d, j = np.unravel_index(higher.argmin(), higher.shape)
        if higher[i, d, j] >= load[most] * (1 - 1e-9):
            return assigned
        assigned[most, i], assigned[d, j] = assigned[d, j], assigned[most, i]
