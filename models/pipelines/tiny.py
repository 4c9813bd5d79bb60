"""The Tiny model: digits from their classes, denoised as pixels."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from models.schedulers import CleanEulerConfig, CleanEulerScheduler
from models.tiny import TinyConfig

from .conditions import Conditions
from .family import Family


class Tiny(Family):
    """Conventions of a `TinyVideoDiT`, which predicts clean videos [B, F, Y, X, C].

    Args:
      transformer: its configuration.
      shift: flow shift of the time grid.
    """

    def __init__(self, transformer: TinyConfig, shift: float = 1.0):
        super().__init__(transformer, CleanEulerScheduler(CleanEulerConfig(shift=shift)))

    def guided(self, guidance):
        """Other than 1: below, down to negative scales, it leads away from the class."""
        if not math.isfinite(guidance):
            raise ValueError(
                f"guidance={guidance} must be a finite number; 2 is usual for Tiny, and 1 turns guidance off"
            )
        return guidance != 1

    def conditions(self, classes: Sequence[int] | np.ndarray, guidance: float) -> Conditions:
        """What the transformer is called with in every step.

        Args:
          classes: of the videos, [B].
          guidance: scale; see `guided`.

        Raises:
          ValueError: not classes of this model, or not such a scale.
        """
        none = self.transformer.num_classes  # the label of no class
        label = np.asarray(classes)
        if label.ndim != 1 or not np.issubdtype(label.dtype, np.integer):
            raise ValueError(
                f"classes={classes} must be one whole number for each video; give a list"
            )
        if not ((label >= 0) & (label <= none)).all():
            raise ValueError(
                f"classes={label.tolist()} must lie in 0..{none}; {none} means no class"
            )
        label = label.astype(np.int32)
        if not self.guided(guidance):
            return Conditions(inputs={"label": jnp.asarray(label)})
        label = np.concatenate([label, np.full_like(label, none)])
        return Conditions(inputs={"label": jnp.asarray(label)}, guidance=jnp.float32(guidance))
