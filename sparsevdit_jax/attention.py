"""SparseAttention: what a whole model attends by, as a pattern for each layer and a schedule; JSON in and out."""

import dataclasses
import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from pallas_kernels._values import listed, whole, wholes
from sparsevdit_jax import codec
from sparsevdit_jax.context import KernelOptions, StepContext
from sparsevdit_jax.grid import VideoGrid
from sparsevdit_jax.pattern import AttentionPattern
from sparsevdit_jax.patterns.dense import Dense
from sparsevdit_jax.schedule import Phase, StepSchedule

FORMAT = "sparsevdit-jax/attention"
VERSION = 1
_FIELDS = ("format", "version", "grid", "num_heads", "schedule", "patterns", "layers")


@dataclasses.dataclass(frozen=True)
class SparseAttention:
    """A pattern for each layer, and the phase of each denoising step. It is hashable, so that a jitted
    step can take it as a static argument.

    Attributes:
      patterns: pattern of each layer.
      schedule: phase of each step.
      grid: grid that the patterns were made for; None: any. Tables found by search hold for one
        grid.
      num_heads: heads per layer that they were made for; None: any.
    """

    patterns: tuple[AttentionPattern, ...]
    schedule: StepSchedule = dataclasses.field(default_factory=StepSchedule)
    grid: VideoGrid | None = None
    num_heads: int | None = None

    def __post_init__(self):
        object.__setattr__(self, "patterns", listed("patterns", self.patterns))
        for name, value, kind in (
            ("schedule", self.schedule, StepSchedule),
            ("grid", self.grid, VideoGrid | None),
        ):
            if not isinstance(value, kind):
                raise ValueError(f"{name}={value!r} must be a {kind}")
        if self.num_heads is not None:
            object.__setattr__(self, "num_heads", whole("num_heads", self.num_heads, 1))
        if not self.patterns:
            raise ValueError("patterns=() must hold a pattern for each layer, one at least")
        for layer, pattern in enumerate(self.patterns):
            if not isinstance(pattern, AttentionPattern):
                raise ValueError(
                    f"patterns[{layer}]={pattern!r} must be an AttentionPattern object"
                )
            if pattern.num_steps not in (None, self.schedule.num_steps):
                raise ValueError(
                    f"the Table of layer {layer} has {pattern.num_steps} steps, but the schedule has "
                    f"{self.schedule.num_steps}; search again for this number of steps"
                )
        if self.schedule.density and not any(p.takes_density for p in self.patterns):
            raise ValueError(
                "the schedule gives a density for each step, but no pattern here has a budget that "
                "can follow it; leave density out, or take a pattern such as AdaSpa"
            )

    @classmethod
    def uniform(
        cls, pattern: AttentionPattern, num_layers: int, schedule: StepSchedule | None = None
    ) -> "SparseAttention":
        """The same pattern in every layer."""
        return cls((pattern,) * whole("num_layers", num_layers, 1), schedule or StepSchedule())

    def with_dense(
        self,
        steps: int | None = None,
        last_steps: int | None = None,
        layers: Iterable[int] = (),
    ) -> "SparseAttention":
        """This attention with other dense steps at the start and at the end, and with more dense layers.

        Args:
          steps: dense steps at the start. None keeps the schedule's.
          last_steps: dense steps at the end. None keeps the schedule's. Searches move
            (`StepSchedule.with_dense`).
          layers: layers to make `Dense` in every step, counted from 0. Dense layers stay dense.

        Raises:
          ValueError: the numbers do not fit the schedule or the layers; everything is dense
            already; or a `Table` was made with more dense steps, so that it holds only `Dense`
            for a step that would now be sparse.
        """
        layers = {self._layer(layer) for layer in layers}
        if steps is None and last_steps is None and not layers:
            return self
        if all(pattern.is_dense for pattern in self.patterns):
            named = dict(
                dense_steps=steps, dense_last_steps=last_steps, dense_layers=layers or None
            )
            given = ", ".join(f"{name}={v}" for name, v in named.items() if v is not None)
            raise ValueError(
                f"{given}: attention is dense in every step and layer already; leave this out, or "
                "choose a sparse method"
            )
        schedule = self.schedule.with_dense(steps, last_steps)
        patterns = tuple(
            Dense() if layer in layers else pattern for layer, pattern in enumerate(self.patterns)
        )
        for step, (before, after) in enumerate(
            zip(self.schedule.phases(), schedule.phases(), strict=True)
        ):
            if before is Phase.DENSE and after is not Phase.DENSE:
                _check_rows(step, patterns)
        return dataclasses.replace(self, patterns=patterns, schedule=schedule)

    def _layer(self, layer):
        layer = whole("dense_layers", layer, remedy="count layers from 0")
        if layer >= self.num_layers:
            raise ValueError(
                f"dense_layers={layer} must be a layer of this model, "
                f"0..{self.num_layers - 1}, counted from 0"
            )
        return layer

    @property
    def num_layers(self) -> int:
        """Layers, one pattern each."""
        return len(self.patterns)

    def check(
        self, *, grid: VideoGrid | None = None, num_layers: int | None = None, num_heads=None
    ):
        """Checks the grid, layer count and head count that this was made for.

        Raises:
          ValueError: one of them differs; the message names it.
        """
        if grid is not None and self.grid is not None and grid != self.grid:
            raise ValueError(
                f"these patterns were made for {self.grid}, not for the grid {grid}; search or "
                "choose anew for it"
            )
        for what, own, given in (
            ("layer", self.num_layers, num_layers),
            ("head", self.num_heads, num_heads),
        ):
            if own is not None and given is not None and own != given:
                raise ValueError(
                    f"these patterns were made for {own} {what}s, but the model's {what} count is {given}; "
                    "use the file that was made for this model"
                )

    def init(
        self, grid: VideoGrid, *, batch: int, num_heads: int, head_dim: int
    ) -> tuple[Any, ...]:
        """State of every layer before the first step.

        Raises:
          ValueError: this was made for another grid or head count, or a pattern does not fit.
        """
        self.check(grid=grid, num_heads=num_heads)
        room = self.schedule.largest_density
        patterns = self.patterns
        if room is not None:
            patterns = tuple(p.with_density(room) for p in patterns)
        return tuple(
            p.init(grid, batch=batch, num_heads=num_heads, head_dim=head_dim) for p in patterns
        )

    def context(
        self,
        step: int,
        grid: VideoGrid,
        *,
        text_lengths=None,
        kernel: KernelOptions = KernelOptions(),  # noqa: B008 (frozen)
    ) -> StepContext:
        """The context of step `step` (from 0) of the schedule; see `StepContext`."""
        schedule = self.schedule
        return StepContext(
            grid,
            schedule.phase(step),
            np.int32(step),
            text_lengths,
            kernel,
            None if schedule.density is None else np.float32(schedule.density[step]),
            schedule.largest_density,
        )

    def to_json(self) -> str:
        """Text that `from_json` reads. Equal patterns of several layers are written once."""
        distinct = list(dict.fromkeys(self.patterns))
        document = {
            "format": FORMAT,
            "version": VERSION,
            "grid": None if self.grid is None else dataclasses.asdict(self.grid),
            "num_heads": self.num_heads,
            "schedule": self.schedule.to_dict(),
            "patterns": [codec.encode(p) for p in distinct],
            "layers": [distinct.index(p) for p in self.patterns],
        }
        return json.dumps(document, indent=1)

    @classmethod
    def from_json(
        cls,
        text: str,
        *,
        grid: VideoGrid | None = None,
        num_layers: int | None = None,
        num_heads: int | None = None,
    ) -> "SparseAttention":
        """The inverse of `to_json`.

        Args:
          text: contents of the file.
          grid: grid of the model at hand; a file made for another is refused. None: not checked.
          num_layers: its layer count, likewise.
          num_heads: its head count, likewise.

        Raises:
          ValueError: not such a file, another version, an unknown pattern or field, or made for
            something else.
        """
        try:
            document = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"not JSON ({error}); write the file with SparseAttention.to_json"
            ) from error
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise ValueError(
                f"the file's format is not {FORMAT!r}; write it with SparseAttention.to_json"
            )
        if document.get("version") != VERSION:
            raise ValueError(
                f"the file has format version {document.get('version')}, this library reads "
                f"{VERSION}; "
                "write it again with this library"
            )
        codec.check_fields("the file", document, _FIELDS, _FIELDS)
        distinct = [codec.decode(p) for p in listed("patterns", document["patterns"])]
        chosen = wholes("layers", document["layers"], remedy="index the file's patterns")
        bad = [i for i in chosen if i >= len(distinct)]
        if bad:
            raise ValueError(f"layers name patterns {bad}, but the file holds {len(distinct)}")
        made_for = document["grid"]
        attention = cls(
            tuple(distinct[i] for i in chosen),
            codec.build(StepSchedule, document["schedule"]),
            None if made_for is None else codec.build(VideoGrid, made_for),
            document["num_heads"],
        )
        attention.check(grid=grid, num_layers=num_layers, num_heads=num_heads)
        return attention


def _check_rows(step, patterns):
    for layer, pattern in enumerate(patterns):
        if pattern.num_steps is None:
            continue
        if all(p.is_dense for p in pattern.at_step(step, pattern.num_heads)):
            raise ValueError(
                f"step {step} would be sparse, but the Table of layer {layer} was made with "
                "this step dense and has no other choice for it; keep at least the dense steps "
                "that the table was made with, or search again with fewer"
            )
