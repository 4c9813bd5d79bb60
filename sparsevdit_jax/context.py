"""StepContext: what a pattern must know of the present step. KernelOptions: how kernels are called."""

import dataclasses

import jax
import numpy as np
from jaxtyping import Int

from pallas_kernels._pytree import pytree, static
from pallas_kernels._values import share, whole
from pallas_kernels.block_mask import ArrayLike
from sparsevdit_jax.grid import VideoGrid
from sparsevdit_jax.parallel.ulysses import LocalHeads
from sparsevdit_jax.schedule import Phase


@dataclasses.dataclass(frozen=True)
class KernelOptions:
    """How kernels are called; static, so that another value compiles another program.

    Attributes:
      implementation: name passed to the kernels; None lets them choose.
      scale: factor on the logits; None is ``head_dim ** -0.5``.
    """

    implementation: str | None = None
    scale: float | None = None


@pytree
class StepContext:
    """What a pattern must know of the present step. `SparseAttention.context` makes it from a schedule.

    It is a pytree: pass it to a jitted step as an ordinary argument.

    `grid`, `phase`, `kernel` and `room` are static (another value compiles another program); the
    others are data (another value does not).

    Attributes:
      grid: the token sequence's shape.
      phase: why this step runs.
      step: index of the denoising step, int32 scalar, from 0; the row of a `Table`.
      text_lengths: real text tokens of each batch row; None: the whole room is used.
      kernel: how kernels are called.
      density: share of blocks that a pattern with a budget keeps in this step, float32 scalar; None:
        its own.
      room: the largest `density` of the run, for which lists have room; None: the pattern's own.
      heads: the heads on this device; the engine sets it under a mesh. None: all, in order.
    """

    grid: VideoGrid = static()
    phase: Phase = static(default=Phase.REUSE)
    step: jax.Array | np.integer | int = 0
    text_lengths: Int[ArrayLike, " B"] | None = None
    kernel: KernelOptions = static(default=KernelOptions())
    density: jax.Array | np.floating | float | None = None
    room: float | None = static(default=None)
    heads: LocalHeads | None = None

    def __post_init__(self):
        if not isinstance(self.phase, Phase):
            raise ValueError(
                f"phase={self.phase!r} must be a Phase, one of {[str(p) for p in Phase]}"
            )
        if not isinstance(self.step, jax.Array):
            object.__setattr__(self, "step", np.int32(whole("step", self.step)))
        elif self.step.ndim or not np.issubdtype(self.step.dtype, np.integer):
            raise ValueError(
                f"step is {self.step.dtype} {self.step.shape}; it must be one whole number"
            )
        elif self.step.dtype != np.int32:  # int64 under JAX_ENABLE_X64
            object.__setattr__(self, "step", self.step.astype(np.int32))
        if self.density is not None and not isinstance(self.density, jax.Array):
            given = share("density", self.density, remedy="kept blocks / all blocks of a row")
            object.__setattr__(self, "density", np.float32(given))
            if self.room is None:
                object.__setattr__(self, "room", float(given))
        if self.text_lengths is not None:
            object.__setattr__(
                self, "text_lengths", check_text_lengths(self.text_lengths, self.grid)
            )

    def num_heads(self, x: jax.Array) -> int:
        """Heads that the pattern serves on all devices; `x` [B, L, H, D] holds this device's."""
        return x.shape[2] if self.heads is None else self.heads.count

    def local_heads(self, x, axis: int = 1):
        """Entries of this device's heads, of `x` with all heads (or one for all) along `axis`."""
        return x if self.heads is None or x.shape[axis] == 1 else self.heads.take(x, axis)

    def all_heads(self, x: jax.Array, axis: int = 1) -> jax.Array:
        """The inverse of `local_heads`: `x` of the heads of all devices, gathered along `axis`."""
        return x if self.heads is None else self.heads.gather(x, axis)


def check_text_lengths(text_lengths, grid: VideoGrid):
    """`text_lengths` as an int32 [B] array; ValueError where a concrete value does not fit the
    grid's room.
    """
    traced = isinstance(text_lengths, jax.core.Tracer)
    lengths = text_lengths if isinstance(text_lengths, jax.Array) else np.asarray(text_lengths)
    if lengths.ndim != 1 or not np.issubdtype(lengths.dtype, np.integer):
        raise ValueError(
            f"text_lengths has shape {lengths.shape} and dtype {lengths.dtype}; "
            "it must be integers [batch], the real text tokens of each row"
        )
    if not traced:
        values = np.asarray(lengths)
        if values.size and (values.min() < 0 or values.max() > grid.text_len):
            raise ValueError(
                f"text_lengths={values.tolist()} must lie in 0..{grid.text_len}, the room for text "
                f"of {grid}; "
                "truncate the text or make the grid with a larger text_len"
            )
    return lengths.astype(np.int32)
