"""What each denoising step is for: Phase, StepSchedule (step -> phase), StepContext (one step)."""

import collections
import dataclasses
import enum
from typing import Any

import jax
import numpy as np

from pallas_kernels._pytree import pytree, static
from pallas_kernels._values import whole, wholes
from sparsevdit_jax.grid import VideoGrid


class Phase(enum.Enum):
    """Why a step runs. Static under jit: a run compiles at most one program per phase."""

    DENSE = "dense"
    """Exact attention for every pattern: the warm-up, and the last steps where they are asked for.
    States pass through it untouched.
    """
    SEARCH = "search"
    """Patterns that search online choose their blocks anew; the others act as in REUSE."""
    REUSE = "reuse"
    """Sparse attention with the blocks chosen before."""


@dataclasses.dataclass(frozen=True)
class StepSchedule:
    """Which phase each denoising step has: dense steps, then sparse ones, then dense ones again.

    Attributes:
      num_steps: denoising steps of a run.
      dense_steps: leading steps that run exact attention (STA: 12 to 15 of 50).
      search_steps: steps that search, counted from `first_step`, ascending. They lie between the
        leading and the last dense steps.
      first_step: number of the first step in `search_steps`, 0 or 1. AdaSpa's paper leaves the base
        open (arXiv 2502.21079): {10, 30} of 50 means 10 exact steps read from 1, and 11 read from
        0.
      dense_last_steps: last steps that run exact attention, for what a sparse end would blur.
    """

    num_steps: int = 50
    dense_steps: int = 0
    search_steps: tuple[int, ...] = ()
    first_step: int = 0
    dense_last_steps: int = 0

    def __post_init__(self):
        for name in ("num_steps", "dense_steps", "first_step", "dense_last_steps"):
            least = int(name == "num_steps")
            object.__setattr__(self, name, whole(name, getattr(self, name), least))
        object.__setattr__(self, "search_steps", wholes("search_steps", self.search_steps))
        if self.dense_steps + self.dense_last_steps > self.num_steps:
            raise ValueError(
                f"dense_steps={self.dense_steps} and dense_last_steps={self.dense_last_steps} are "
                f"more than num_steps={self.num_steps} together; lower one of them"
            )
        if self.first_step > 1:
            raise ValueError(
                f"first_step={self.first_step} must be 0 or 1: the number of the first step"
            )
        if list(self.search_steps) != sorted(set(self.search_steps)):
            raise ValueError(f"search_steps={self.search_steps} must be ascending and distinct")
        low = self.first_step + self.dense_steps
        high = self.first_step + self._end - 1
        outside = [s for s in self.search_steps if not low <= s <= high]
        if outside:
            raise ValueError(
                f"search_steps {outside} lie outside {low}..{high}: they are counted from "
                f"first_step={self.first_step} and lie between the {self.dense_steps} leading and "
                f"the {self.dense_last_steps} last dense steps"
            )

    @classmethod
    def adaspa(
        cls, num_steps: int = 50, search_steps: tuple[int, ...] = (10, 30), first_step: int = 1
    ) -> "StepSchedule":
        """AdaSpa's schedule: exact until the first search, whose own output is exact too.

        The defaults are the paper's, read from step 1: 9 dense steps, a fused search (10 exact
        steps in all), then sparse steps with a second search at 30. Reference:
        arXiv 2502.21079.
        """
        dense = search_steps[0] - first_step if search_steps else num_steps
        return cls(num_steps, dense, search_steps, first_step)

    def with_dense(self, first: int | None = None, last: int | None = None) -> "StepSchedule":
        """This schedule with other numbers of dense steps; its searches make room.

        The first search keeps its distance from the leading dense steps (none in
        `StepSchedule.adaspa`), but is never later than the last sparse step. Later searches stay
        where they are, and those that would fall in a dense step are left out.

        Args:
          first: `dense_steps`; None leaves them.
          last: `dense_last_steps`; None leaves them.

        Raises:
          ValueError: not whole numbers, or more than `num_steps` together.
        """
        first = self.dense_steps if first is None else first
        last = self.dense_last_steps if last is None else last
        bare = StepSchedule(self.num_steps, first, (), self.first_step, last)
        begin, end = bare.dense_steps, bare._end
        searches = [s - self.first_step for s in self.search_steps]
        if searches:
            searches[0] = min(searches[0] + begin - self.dense_steps, end - 1)
        kept = sorted({s + self.first_step for s in searches if begin <= s < end})
        return dataclasses.replace(bare, search_steps=tuple(kept))

    def to_dict(self) -> dict[str, Any]:
        """Its fields, for JSON. A field that came later is left out while it has its default, so
        that files and measurements without it stay the same for every version.
        """
        fields = dataclasses.asdict(self)
        if not self.dense_last_steps:
            del fields["dense_last_steps"]
        return fields

    def phase(self, step: int) -> Phase:
        """Phase of loop index `step` (from 0, whatever `first_step` is)."""
        if not 0 <= step < self.num_steps:
            raise ValueError(f"step={step} lies outside this schedule's 0..{self.num_steps - 1}")
        if not self.dense_steps <= step < self._end:
            return Phase.DENSE
        return Phase.SEARCH if step + self.first_step in self.search_steps else Phase.REUSE

    def phases(self) -> tuple[Phase, ...]:
        """Phase of every step."""
        return tuple(self.phase(step) for step in range(self.num_steps))

    def counts(self) -> dict[Phase, int]:
        """How many steps each phase has (phases that do not occur are absent)."""
        return dict(collections.Counter(self.phases()))

    @property
    def _end(self) -> int:
        """The step after the last sparse one."""
        return self.num_steps - self.dense_last_steps


def attention_cost(schedule: StepSchedule, density: float, *, lse_cache: bool = True) -> float:
    """Attention work of a run of AdaSpa, in full attentions.

    A full attention costs 1 (its two products 0.5 each) and a sparse step costs `density`. The
    first search is fused with an exact step (1 + 0.5); a later one adds to its sparse step the 0.5
    of a pass over q and k under the cached LSE, and without `lse_cache` another 0.5 for its own LSE.
    """
    cost, searched = 0.0, False
    for phase in schedule.phases():
        search = phase is Phase.SEARCH
        exact = phase is Phase.DENSE or (search and not searched)
        passes = (1 if lse_cache or not searched else 2) * search
        cost += (1.0 if exact else density) + 0.5 * passes
        searched |= search
    return cost


def exact_steps(schedule: StepSchedule) -> int:
    """Steps whose attention is exact: the dense ones and the first (fused) search."""
    counts = schedule.counts()
    return counts.get(Phase.DENSE, 0) + min(1, counts.get(Phase.SEARCH, 0))


@pytree
class StepContext:
    """What a pattern must know of the present step. A pytree: pass it to a jitted step as an
    ordinary argument.

    `grid`, `phase`, `implementation` and `scale` are static (another value compiles another
    program); `step` and `text_lengths` are data (another value does not).

    Attributes:
      grid: the token sequence's shape.
      phase: why this step runs.
      step: index of the denoising step, int32 scalar, from 0; the row of a `Table`.
      text_lengths: real text tokens of each batch row, int32 [B]; None: the whole room is used.
      implementation: name passed to the kernels; None lets them choose.
      scale: factor on the logits; None is ``head_dim ** -0.5``.
    """

    grid: VideoGrid = static()
    phase: Phase = static(default=Phase.REUSE)
    step: jax.Array | np.integer | int = 0
    text_lengths: jax.Array | None = None
    implementation: str | None = static(default=None)
    scale: float | None = static(default=None)

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
        if self.text_lengths is not None:
            object.__setattr__(
                self, "text_lengths", check_text_lengths(self.text_lengths, self.grid)
            )


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
