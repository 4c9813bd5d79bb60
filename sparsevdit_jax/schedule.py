"""Phase: why a denoising step runs. StepSchedule: the phase of each step."""

import collections
import dataclasses
import enum
from typing import Any

from pallas_kernels._values import listed, share, whole, wholes


class Phase(enum.Enum):
    """Why a step runs. Static under jit: a run compiles at most one program per phase."""

    DENSE = "dense"
    """Dense attention for every pattern: in the warm-up, and in the last steps if the schedule says so.
    States do not change.
    """
    FIRST_SEARCH = "first search"
    """The first search of a run. Patterns that search online compute dense attention and choose their
    blocks from it. The others act as in REUSE.
    """
    SEARCH = "search"
    """A later search. Patterns that search online choose their blocks anew, with the state that the
    first search left. The others act as in REUSE.
    """
    REUSE = "reuse"
    """Sparse attention with the blocks chosen before."""


@dataclasses.dataclass(frozen=True)
class StepSchedule:
    """Which phase each denoising step has: dense steps, then sparse ones, then dense ones again.

    Attributes:
      num_steps: denoising steps of a run.
      dense_steps: dense steps at the start (STA: 12 to 15 of 50).
      search_steps: steps that search, counted from `first_step`, ascending. They lie between the
        leading and the last dense steps.
      first_step: number of the first step in `search_steps`, 0 or 1. AdaSpa's paper leaves the base
        open (arXiv 2502.21079): {10, 30} of 50 means 10 dense steps if steps count from 1, and 11 if
        they count from 0.
      dense_last_steps: dense steps at the end, which keep detail that a sparse end would blur.
      density: share of the blocks that each step keeps, one number in (0, 1] for each step, in place
        of the density of patterns with a budget (`AttentionPattern.takes_density`). A step of
        density 1 is dense. None: patterns keep their own.
    """

    num_steps: int = 50
    dense_steps: int = 0
    search_steps: tuple[int, ...] = ()
    first_step: int = 0
    dense_last_steps: int = 0
    density: tuple[float, ...] | None = None

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
        if self.density is not None:
            object.__setattr__(self, "density", _densities(self.density, self.num_steps))
        low = self.first_step + self.dense_steps
        high = self.first_step + self._end - 1
        outside = [s for s in self.search_steps if not low <= s <= high]
        if outside:
            raise ValueError(
                f"search_steps {outside} lie outside {low}..{high}: they are counted from "
                f"first_step={self.first_step} and lie between the {self.dense_steps} leading and "
                f"the {self.dense_last_steps} last dense steps"
            )
        if full := [s for s in self.search_steps if self._is_full(s - self.first_step)]:
            raise ValueError(
                f"search_steps {full} have density 1, so they would be dense; give them a lower one"
            )

    @classmethod
    def adaspa(
        cls, num_steps: int = 50, search_steps: tuple[int, ...] = (10, 30), first_step: int = 1
    ) -> "StepSchedule":
        """AdaSpa's schedule: dense until the first search, whose own output is dense too.

        The defaults are the paper's, counted from step 1: 9 dense steps, a fused search (10 dense
        outputs in all), then sparse steps with a second search at 30. Reference:
        arXiv 2502.21079.
        """
        dense = search_steps[0] - first_step if search_steps else num_steps
        return cls(num_steps, dense, search_steps, first_step)

    def with_dense(self, first: int | None = None, last: int | None = None) -> "StepSchedule":
        """This schedule with other numbers of dense steps; its searches move out of their way.

        The first search keeps its distance from the dense steps at the start (none in
        `StepSchedule.adaspa`), but is never later than the last sparse step. Later searches stay
        where they are. A search that would fall in a dense step is dropped.

        Args:
          first: `dense_steps`; None leaves them.
          last: `dense_last_steps`; None leaves them.

        Raises:
          ValueError: not whole numbers, or more than `num_steps` together.
        """
        first = self.dense_steps if first is None else first
        last = self.dense_last_steps if last is None else last
        bare = StepSchedule(self.num_steps, first, (), self.first_step, last, self.density)
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
        late = {"dense_last_steps": 0, "density": None}
        return {name: x for name, x in fields.items() if name not in late or x != late[name]}

    def phase(self, step: int) -> Phase:
        """Phase of loop index `step` (from 0, whatever `first_step` is)."""
        if not 0 <= step < self.num_steps:
            raise ValueError(f"step={step} lies outside this schedule's 0..{self.num_steps - 1}")
        if not self.dense_steps <= step < self._end or self._is_full(step):
            return Phase.DENSE
        number = step + self.first_step
        if number not in self.search_steps:
            return Phase.REUSE
        return Phase.FIRST_SEARCH if number == self.search_steps[0] else Phase.SEARCH

    def phases(self) -> tuple[Phase, ...]:
        """Phase of every step."""
        return tuple(self.phase(step) for step in range(self.num_steps))

    def counts(self) -> dict[Phase, int]:
        """How many steps each phase has (phases that do not occur are absent)."""
        return dict(collections.Counter(self.phases()))

    @property
    def largest_density(self) -> float | None:
        """Largest density of a sparse step, for which patterns make room; None without `density`."""
        if self.density is None:
            return None
        sparse = (d for d, p in zip(self.density, self.phases(), strict=True) if p != Phase.DENSE)
        return max(sparse, default=1.0)

    def _is_full(self, step: int) -> bool:
        return self.density is not None and self.density[step] == 1

    @property
    def _end(self) -> int:
        """The step after the last sparse one."""
        return self.num_steps - self.dense_last_steps


def attention_cost(schedule: StepSchedule, density: float, *, lse_cache: bool = True) -> float:
    """Attention work of a run of AdaSpa, in units of one dense attention.

    A dense attention costs 1 (its two products 0.5 each), and a sparse step costs `density`. The
    first search is fused with a dense step: 1 + 0.5. A later search adds 0.5 to its sparse step, for
    a pass over q and k under the cached LSE. Without `lse_cache` it adds another 0.5 for its own LSE.
    """
    later = 0.5 if lse_cache else 1.0
    costs = {
        Phase.DENSE: 1.0,
        Phase.FIRST_SEARCH: 1.5,
        Phase.SEARCH: density + later,
        Phase.REUSE: density,
    }
    return sum(costs[phase] for phase in schedule.phases())


def exact_steps(schedule: StepSchedule) -> int:
    """Steps whose output is that of dense attention: the dense steps and the first (fused) search."""
    return sum(phase in (Phase.DENSE, Phase.FIRST_SEARCH) for phase in schedule.phases())


def _densities(values, num_steps):
    """A tuple of `num_steps` shares; ValueError otherwise."""
    remedy = "kept blocks / all blocks of a row, in each step"
    values = tuple(share("density", d, remedy=remedy) for d in listed("density", values))
    if len(values) != num_steps:
        raise ValueError(
            f"density has {len(values)} entries, but the schedule has {num_steps} steps; give one "
            "for each"
        )
    return values
