"""Choices -> `SparseAttention`: a table keyed by step, or one pattern for each (layer, head)."""

import numpy as np

from sparsevdit_jax.attention import SparseAttention
from sparsevdit_jax.grid import VideoGrid
from sparsevdit_jax.pattern import AttentionPattern, StaticPattern
from sparsevdit_jax.patterns.dense import Dense
from sparsevdit_jax.patterns.per_head import PerHead
from sparsevdit_jax.patterns.table import Table
from sparsevdit_jax.schedule import Phase, StepSchedule


def step_table(
    choice: np.ndarray,
    candidates: tuple[StaticPattern, ...],
    schedule: StepSchedule,
    *,
    grid: VideoGrid,
) -> SparseAttention:
    """A `Table` for each layer: which candidate each head has at each step.

    Args:
      choice: int [T, N, H] over steps, layers, heads; -1 is dense attention. Rows of the schedule's
        dense steps are not read.
      candidates: static patterns of one block size.
      schedule: of the run, T steps.
      grid: the latent grid that the choice was made on; the result refuses another.
    """
    choice = np.array(choice)
    if choice.ndim != 3 or len(choice) != schedule.num_steps:
        raise ValueError(
            f"choice has shape {choice.shape}; it must be [steps, layers, heads] with "
            f"{schedule.num_steps} steps, as the schedule"
        )
    choice[[phase is Phase.DENSE for phase in schedule.phases()]] = -1
    used = np.unique(choice)
    library = tuple(Dense() if i < 0 else candidates[i] for i in used)
    index = np.searchsorted(used, choice)
    tables = tuple(Table(library, tuple(map(tuple, layer))) for layer in np.moveaxis(index, 1, 0))
    return SparseAttention(tables, schedule, grid, choice.shape[2])


def fixed_table(
    choice: np.ndarray,
    candidates: tuple[AttentionPattern, ...],
    schedule: StepSchedule,
    *,
    grid: VideoGrid,
) -> SparseAttention:
    """A `PerHead` for each layer: one candidate for each head at all steps, of any kind.

    Args:
      choice: int [N, H] over layers and heads; -1 is dense attention.
      candidates: patterns; they may search online.
      schedule: of the run.
      grid: the latent grid that the choice was made on; the result refuses another.
    """
    choice = np.asarray(choice)
    if choice.ndim != 2:
        raise ValueError(f"choice has shape {choice.shape}; it must be [layers, heads]")
    layers = tuple(
        PerHead.of(Dense() if i < 0 else candidates[i] for i in row) for row in choice.tolist()
    )
    return SparseAttention(layers, schedule, grid, choice.shape[1])


def choice_density(choice: np.ndarray, densities) -> np.ndarray:
    """Density of every entry of a choice; -1 has 1."""
    return np.append(np.asarray(densities, np.float64), 1.0)[np.asarray(choice)]
