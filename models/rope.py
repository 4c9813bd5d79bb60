"""Rotary position embedding over the three axes of a video (frame, row, column)."""

import jax
import jax.numpy as jnp
import numpy as np

Rope = tuple[jax.Array, jax.Array]  # cosines and sines of tokens (`rope_table`)


def axis_dims(head_dim: int) -> tuple[int, int, int]:
    """Channels of a head that rotate with (frame, row, column): Wan's split, D - 4*(D//6), 2*(D//6) twice."""
    spatial = 2 * (head_dim // 6)
    return head_dim - 2 * spatial, spatial, spatial


def rope_table(
    shape: tuple[int, int, int],
    head_dim: int,
    *,
    theta: float = 256.0,
    axes: tuple[int, int, int] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines of every video token's rotation, in raster order.

    Args:
      shape: video tokens (frames, height, width).
      head_dim: channels per head, even.
      theta: base of the geometric progression of frequencies (HunyuanVideo's 256: clips are short).
      axes: channels of a head that rotate with (frame, row, column), all even; None is `axis_dims`.

    Returns:
      Two float32 arrays [tokens, head_dim / 2]; frequencies are computed in float64.
    """
    if head_dim % 2:
        raise ValueError(f"{head_dim=} must be even: RoPE rotates pairs of channels")
    axes = axis_dims(head_dim) if axes is None else axes
    if sum(axes) != head_dim or any(dim % 2 for dim in axes):
        raise ValueError(
            f"{axes=} must be even numbers whose sum is {head_dim=}; change one of them"
        )
    angles = []
    for axis, dim in enumerate(axes):
        frequency = theta ** -(np.arange(0, dim, 2, dtype=np.float64) / dim)
        position = np.arange(shape[axis], dtype=np.float64)
        angle = position[:, None] * frequency
        along = [shape[axis] if i == axis else 1 for i in range(3)]
        angle = np.broadcast_to(angle.reshape(*along, dim // 2), (*shape, dim // 2))
        angles.append(angle.reshape(-1, dim // 2))
    angle = np.concatenate(angles, -1)
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


def as_arrays(table: tuple[np.ndarray, np.ndarray]) -> tuple[jax.Array, jax.Array]:
    """A table as two constants that all blocks of a model share, at run time and while compiling.

    Without the barrier XLA folds each use's reshapes and casts into new constants, about 130 MiB of the compiler's
    memory for each use in a 720p clip of 129 frames.
    """
    cos, sin = jax.lax.optimization_barrier((jnp.asarray(table[0]), jnp.asarray(table[1])))
    return cos, sin


def apply_rope(x: jax.Array, table: Rope) -> jax.Array:
    """Rotates interleaved channel pairs of the first tokens of `x`; tokens beyond the table (text) stay.

    Args:
      x: [B, L, H, D].
      table: cosines and sines [Lv, D / 2] with Lv <= L (`rope_table`).

    Returns:
      [B, L, H, D] in the dtype of `x`; the rotation itself is float32.
    """
    # Text turns by no angle: to cut it off and join it again would move the sequence between devices.
    rest = ((0, x.shape[1] - table[0].shape[0]), (0, 0))
    cos, sin = (
        jnp.pad(jnp.asarray(part), rest, constant_values=still)[None, :, None]
        for part, still in zip(table, (1, 0), strict=True)
    )
    even, odd = (x[..., i::2].astype(jnp.float32) for i in (0, 1))
    rotated = jnp.stack([even * cos - odd * sin, even * sin + odd * cos], -1)
    return rotated.reshape(x.shape).astype(x.dtype)
