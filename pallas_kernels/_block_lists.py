"""Lists of kept blocks from a boolean matrix and back. Full rows are not listed."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def on_host(keep: np.ndarray, capacity: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Lists and counts of bool [B, H, Nq, Nk]; a capacity that drops blocks is a ValueError."""
    num_kv_blocks = keep.shape[-1]
    counts = np.count_nonzero(keep, axis=-1).astype(np.int32)
    listed = np.where(counts == num_kv_blocks, 0, counts)
    longest = int(listed.max(initial=0))
    if capacity is not None and longest > capacity:
        raise ValueError(
            f"{capacity=} would drop kept blocks: a row keeps {longest} of {num_kv_blocks}; "
            "raise the capacity or keep fewer blocks"
        )
    capacity = capacity or max(longest, 1)
    rows = np.flatnonzero(listed)
    kept = np.flatnonzero(keep.reshape(-1, num_kv_blocks)[rows])
    sizes = listed.reshape(-1)[rows]
    slots = np.arange(kept.size) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    indices = np.zeros((counts.size, capacity), np.int32)
    indices[np.repeat(rows, sizes), slots] = kept % num_kv_blocks
    return indices.reshape(*counts.shape, capacity), counts


def in_program(keep: jax.Array, capacity: int | None) -> tuple[jax.Array, jax.Array]:
    """The same under tracing; a row longer than the capacity keeps its lowest indices."""
    num_kv_blocks = keep.shape[-1]
    capacity = min(capacity or num_kv_blocks - 1, num_kv_blocks) or 1
    counts = keep.sum(-1, dtype=jnp.int32)
    full = counts == num_kv_blocks
    # Each kept block goes to its place in the list; others go beyond the end, and are dropped.
    kept = keep.reshape(-1, num_kv_blocks)
    place = jnp.where(kept, jnp.cumsum(kept, -1, dtype=jnp.int32) - 1, capacity)
    rows = np.arange(kept.shape[0], dtype=np.int32)[:, None]
    blocks = jnp.broadcast_to(np.arange(num_kv_blocks, dtype=np.int32), kept.shape)
    indices = jnp.zeros((kept.shape[0], capacity), jnp.int32)
    indices = indices.at[rows, place].set(blocks, mode="drop")
    indices = indices.reshape(*counts.shape, capacity)
    return indices, jnp.where(full, counts, jnp.minimum(counts, capacity))


def check_distinct(indices: Any, counts: Any, num_kv_blocks: int) -> None:
    """Raises ValueError where a row lists a block twice; lists that are not numpy's are not looked at."""
    if not isinstance(indices, np.ndarray) or not isinstance(counts, np.ndarray):
        return
    capacity = indices.shape[-1]
    slots = np.arange(capacity, dtype=np.int32)
    listed = (slots < counts[..., None]) & (counts < num_kv_blocks)[..., None]
    if (~listed[..., 1:] | (indices[..., 1:] > indices[..., :-1])).all():
        return  # ascending, as most are, needs no sort
    ranked = np.sort(np.where(listed, indices, num_kv_blocks + slots), axis=-1)
    twice = ranked[..., 1:] == ranked[..., :-1]
    if twice.any():
        b, h, row, slot = np.argwhere(twice)[0]
        raise ValueError(
            f"kv_indices[{b}, {h}, {row}] lists block {ranked[b, h, row, slot]} twice; a row reads "
            "each block once: list it once, or keep it in BlockMask.from_dense"
        )


def to_dense(indices: Any, counts: Any, num_kv_blocks: int) -> Any:
    """Bool [B, H, Nq, Nk] of the listed blocks; numpy in, numpy out."""
    xp = np if isinstance(indices, np.ndarray) and isinstance(counts, np.ndarray) else jnp
    b, h, n, capacity = indices.shape
    slots = np.arange(capacity, dtype=np.int32).reshape(1, 1, 1, -1)
    target = xp.where(slots < counts[..., None], indices, num_kv_blocks).reshape(-1, capacity)
    rows = np.broadcast_to(np.arange(b * h * n)[:, None], target.shape)
    keep: Any = xp.zeros((b * h * n, num_kv_blocks + 1), bool)
    if xp is np:
        keep[rows, target] = True
    else:
        keep = keep.at[rows, target].set(True)
    return keep[:, :-1].reshape(b, h, n, num_kv_blocks)


def draw(keep: np.ndarray, width: int) -> str:
    """A matrix in characters, at most `width` a line: `#` all kept, `.` none, `+` some."""
    step = -(-max(keep.shape) // width)
    rows, columns = (range(0, n, step) for n in keep.shape)

    def cell(i, j):
        part = keep[i : i + step, j : j + step]
        return "#" if part.all() else "+" if part.any() else "."

    return "\n".join("".join(cell(i, j) for j in columns) for i in rows)
