"""Task: what is searched over, on what, and what everything costs there."""

import dataclasses

import numpy as np

from experiments.measure_costs import read_table
from experiments.search.search_flags import Config
from experiments.search.subjects import Subject
from sparsevdit_jax import StepSchedule, metrics
from sparsevdit_jax.patterns import Table
from sparsevdit_jax.search.measurements import Measurements


@dataclasses.dataclass(frozen=True)
class Task:
    """What every method's choice needs.

    Attributes:
      costs: of each candidate, relative to dense attention: measured, or its density.
      densities: of each candidate.
    """

    config: Config
    subject: Subject
    candidates: tuple
    schedule: StepSchedule
    costs: np.ndarray
    densities: np.ndarray

    @property
    def calibration(self) -> slice:
        """Prompts that decide; the others judge."""
        return slice(0, len(self.subject.prompts) - self.config.held_out)

    @property
    def held_out(self) -> slice:
        """Prompts that judge."""
        return slice(len(self.subject.prompts) - self.config.held_out, None)

    @property
    def steps(self) -> np.ndarray:
        """Steps that count."""
        online = any(p.searches for p in self.candidates)
        return Measurements.sparse_steps(self.schedule, online=online)

    def check(self) -> None:
        """ValueError for what could only fail, or mean nothing, after everything was measured."""
        config, method = self.config, self.config.method
        if not len(self.steps):
            raise ValueError(
                f"of {self.schedule} no step counts: all are dense; lower --dense-steps or raise --steps"
            )
        if (self.densities == 1).all():
            raise ValueError(
                f"no candidate leaves anything out on {self.subject.grid} ({self.candidates[0]} is "
                "the first); give smaller windows, tiles or blocks"
            )
        if method != "mixture":  # its choices become a `Table`, which knows what it can hold
            table = Table(self.candidates, ((0,),))
            table.init(self.subject.grid, batch=1, num_heads=1, head_dim=self.subject.head_dim)
        tile = getattr(self.candidates[0], "tile", None)
        other = [p for p in self.candidates if getattr(p, "tile", None) != tile]
        if method == "sta" and (tile is None or other):
            raise ValueError(
                f"{(other or self.candidates)[0]} is no window of the first candidate's tile, and --method sta takes "
                "nothing else; search with --method mixture"
            )
        least = min(self.costs if method == "mixture" else self.densities)
        if config.density is not None and config.density < least * (1 - 1e-9):
            raise ValueError(
                f"density={config.density} is below {least:.4f}, the least of all candidates; "
                "raise --density or add sparser candidates"
            )


def make_task(config: Config, subject: Subject, candidates: tuple, schedule: StepSchedule) -> Task:
    """Costs and densities of the candidates on the subject's latent grid.

    Raises:
      ValueError: see `Task.check`; or a table of costs was given that has not measured every candidate here.
    """
    densities = np.array([metrics.density(p, subject.grid, num_heads=1)[0] for p in candidates])
    costs = densities if config.costs is None else _measured_costs(config, subject, candidates)
    task = Task(config, subject, candidates, schedule, costs, densities)
    task.check()
    return task


def _measured_costs(config: Config, subject: Subject, candidates: tuple) -> np.ndarray:
    table = read_table(config.costs)
    sizes = dict(num_heads=subject.num_heads, head_dim=subject.head_dim, dtype=config.dtype)
    costs = [table.relative(p, subject.grid, **sizes) for p in candidates]
    absent = [str(p) for p, cost in zip(candidates, costs, strict=True) if not cost.measured]
    if absent:
        raise ValueError(
            f"{config.costs} has no measurement on this device of {len(absent)} of {len(costs)} candidates "
            f"({absent[0]} is the first) for {subject.grid}, {sizes}; measure them with "
            "python -m experiments.measure_costs, or leave --costs out to take densities"
        )
    return np.array([cost.value for cost in costs])
