"""Method: a published method under its name, with its authors' settings for any grid and model."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from sparsevdit_jax.grid import VideoGrid
from sparsevdit_jax.pattern import AttentionPattern
from sparsevdit_jax.schedule import StepSchedule


def no_layers(num_layers: int) -> tuple[int, ...]:
    """No dense layers."""
    del num_layers
    return ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """What a method's name means. A module of `sparsevdit_jax.patterns` lists its own in `METHODS`,
    and is found there: nothing else registers it.

    Attributes:
      name: of `attention_for` and ``--attention``, lower case with hyphens.
      title: its name in a text.
      source: paper or code whose constants these are.
      pattern: (grid, heads of the model, layer) -> the pattern of that layer. It fits every grid.
      schedule: number of steps -> schedule.
      dense_layers: number of layers -> layers that stay dense, from 0.
      trained: models are trained or finetuned with it; otherwise it is for weights of dense attention.
      models: fields that differ for a family of models: "wan", "hunyuanvideo" or "cogvideox".
    """

    name: str
    title: str
    source: str
    pattern: Callable[[VideoGrid, int, int], AttentionPattern]
    schedule: Callable[[int], StepSchedule] = StepSchedule
    dense_layers: Callable[[int], tuple[int, ...]] = no_layers
    trained: bool = False
    models: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    def of(self, model: str | None) -> "Method":
        """This method with its settings for a family of models, where it has such."""
        return dataclasses.replace(self, **self.models.get(model or "", {}))


def warm_up(share: float) -> Callable[[int], StepSchedule]:
    """Schedules whose first `share` of the steps, rounded, are dense: 0.2 is 10 of 50."""
    return lambda num_steps: StepSchedule(num_steps, round(share * num_steps))
