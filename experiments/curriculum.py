"""What `train_tiny` trains on, and for how long: stages of clips on latent grids of different sizes."""

import dataclasses

import numpy as np

from sparsevdit_jax.patterns import SlidingTile

TRAINING_ATTENTION = SlidingTile(
    tile=(4, 4, 4), window=((3, 3, 3), (3, 3, 1), (3, 1, 3), (1, 3, 3))
)
"""STA with a window per head, in tiles; 21 % of all pairs on the last stage's latent grid."""

SLOW = (0.5, 1.5)
"""Pixels per frame: over the demo's 32 frames a digit still crosses its frame, and a token frame (two
frames) moves less than a token."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of the curriculum.

    Attributes:
      steps: optimiser steps.
      frames, height, width: latent grid in tokens (2 x 4 x 4 pixels each).
      batch: clips per step.
      shift: flow shift of the sampled times; larger latent grids need more high noise.
      sparse: share of steps that run `TRAINING_ATTENTION` instead of dense attention.
      speed: smallest and largest speed of the digit, in pixels per frame.
    """

    steps: int
    frames: int
    height: int
    width: int
    batch: int
    shift: float
    sparse: float = 0.0
    speed: tuple[float, float] = (1.0, 2.5)


@dataclasses.dataclass(frozen=True)
class Plan:
    """Stages one after the other, or by turns (drawn in proportion to their steps)."""

    stages: tuple[Stage, ...]
    by_turns: bool = False

    @property
    def total_steps(self) -> int:
        """Steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    def stage_at(self, step: int, seed: int = 0) -> Stage:
        """The stage of a 0-based step."""
        at = step
        if self.by_turns:
            at = np.random.default_rng((seed, step, 1)).integers(self.total_steps)
        ends = np.cumsum([stage.steps for stage in self.stages])
        return self.stages[int(np.searchsorted(ends, at, "right"))]


PLANS = {
    "short": Plan(
        (
            Stage(2750, 2, 8, 8, 16, 1.0),
            Stage(1150, 4, 10, 10, 6, 1.5),
            Stage(500, 4, 16, 16, 2, 2.0),
            Stage(600, 16, 16, 16, 1, 3.0, sparse=0.75),
        )
    ),
    "long": Plan(
        (
            Stage(400, 1, 16, 16, 16, 2.0),
            Stage(200, 4, 16, 16, 3, 2.5),
            Stage(200, 16, 16, 16, 1, 3.0, sparse=0.75),
        ),
        by_turns=True,
    ),
    "motion": Plan(
        (
            Stage(120, 8, 16, 16, 1, 3.0),
            Stage(200, 16, 16, 16, 1, 3.5, sparse=0.75),
        ),
        by_turns=True,
    ),
    "slow": Plan(
        (
            Stage(250, 1, 16, 16, 16, 2.0),
            Stage(650, 8, 16, 16, 1, 4.0, speed=SLOW),
            Stage(1100, 16, 16, 16, 1, 5.0, sparse=0.75, speed=SLOW),
        ),
        by_turns=True,
    ),
    "quick": Plan((Stage(40, 2, 8, 8, 4, 1.0), Stage(10, 4, 8, 8, 2, 1.0, sparse=0.5))),
}
