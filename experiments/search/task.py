"""Task: what is searched over, on what, and what everything costs there."""

import dataclasses

import numpy as np

from experiments.search.settings import Config
from experiments.search.subjects import Subject
from sparsevdit_jax import StepSchedule
from sparsevdit_jax.offline.costs import CostTable
from sparsevdit_jax.offline.measurements import Measurements
from sparsevdit_jax.offline.tables import declared_density
from sparsevdit_jax.patterns import AdaSpa


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

    def steps(self, found: Measurements) -> np.ndarray:
        """Steps that count."""
        online = any(isinstance(p, AdaSpa) for p in self.candidates)
        return found.sparse_steps(self.schedule, online=online)


def make_task(config: Config, subject: Subject, candidates: tuple, schedule: StepSchedule) -> Task:
    """Costs and densities of the candidates on the subject's canvas.

    Raises:
      ValueError: a table of costs was given that has not measured every candidate here.
    """
    densities = np.array([declared_density(p, subject.grid) for p in candidates])
    if config.costs is None:
        return Task(config, subject, candidates, schedule, densities, densities)
    table = CostTable.from_json(config.costs.read_text(encoding="utf-8"))
    sizes = dict(num_heads=subject.num_heads, head_dim=subject.head_dim, dtype=config.dtype)
    costs = [table.relative(p, subject.grid, **sizes) for p in candidates]
    absent = [str(p) for p, cost in zip(candidates, costs, strict=True) if not cost.measured]
    if absent:
        raise ValueError(
            f"{config.costs} has no measurement on this device of {len(absent)} of {len(costs)} candidates "
            f"({absent[0]} is the first) for {subject.grid}, {sizes}; measure them with "
            "python -m experiments.measure_costs, or leave --costs out to take densities"
        )
    return Task(
        config, subject, candidates, schedule, np.array([cost.value for cost in costs]), densities
    )
