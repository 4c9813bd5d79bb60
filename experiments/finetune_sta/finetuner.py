"""The finetuning: its flags, its loss, its steps."""

import dataclasses
import functools
import math
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments import hosts
from experiments.curriculum import SLOW, Stage
from experiments.demo.clip_runner import WEIGHTS
from experiments.record import ROOT
from experiments.train_tiny import draw_batch
from experiments.training import (
    DEVICE_FLAGS,
    Checkpoints,
    check_flags,
    decay_at,
    first_state,
    make_optimizer,
    next_state,
    training_mesh,
)
from models.flow_matching import add_noise, velocity
from models.tiny import TinyVideoDiT, load_tiny
from sparsevdit_jax import Phase, SparseAttention, StepContext, StepSchedule
from sparsevdit_jax.distill import (
    LossWeights,
    Prediction,
    distillation_loss,
    layer_outputs,
    record,
)
from sparsevdit_jax.patterns import Dense, SlidingTile


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Flags of the finetuning run.

    Attributes:
      out: folder of everything written. An interrupted run in it goes on.
      weights: checkpoint of the TinyVideoDiT that is the teacher. The student starts from it.
      tile: frames, rows and columns of a tile of the student's attention, in tokens.
      window: frames, rows and columns of its window, in tiles.
      canvas: frames, rows and columns of the training clips, in tokens; samples have the same.
      batch: clips per step.
      steps: optimiser steps, a multiple of `save_every`.
      learning_rate: peak of the learning rate, after the warm-up. A cosine takes it to 2 % at the end.
      warmup: steps in which the learning rate grows from 0.
      ema: decay of the averaged weights. Measurements use these.
      drop_label: share of clips trained without condition, for classifier-free guidance.
      loss: weights of the terms of the loss. The defaults are the paper's.
      remat: recompute each block in the backward pass, for less memory and more time.
      seed: seed of the clips and the noise.
      save_every: steps between checkpoints, each of which is measured.
      held_out: clips on which the loss is measured.
      digits: sample one clip of each, from noise of its own.
      sampling_steps: denoising steps of a clip.
      guidance: scale of classifier-free guidance in sampling.
      record: append the measurements to experiments/results instead of `out`.
      data: devices over which the clips of a batch are sharded.
      seq: devices over which the tokens of a clip are sharded.
      distributed: this is one of several processes, one on each host; see `experiments.hosts`.
    """

    GROUPS: ClassVar = {
        "student": ("weights", "tile", "window", "canvas"),
        "training": (
            "batch",
            "steps",
            "learning_rate",
            "warmup",
            "ema",
            "drop_label",
            "remat",
            "seed",
        ),
        "measuring": ("held_out", "digits", "sampling_steps", "guidance"),
        "output": ("out", "save_every", "record"),
        "device": ("data", "seq", "distributed"),
    }

    out: Path = Path("out/finetune_sta")
    weights: Path = WEIGHTS
    tile: tuple[int, int, int] = (2, 2, 2)
    window: tuple[int, int, int] = (3, 3, 3)
    canvas: tuple[int, int, int] = (16, 16, 16)
    batch: int = 1
    steps: int = 300
    learning_rate: float = 4e-4
    warmup: int = 20
    ema: float = 0.97
    drop_label: float = 0.25
    loss: LossWeights = dataclasses.field(default_factory=LossWeights)
    remat: bool = False
    seed: int = 0
    save_every: int = 100
    held_out: int = 16
    digits: tuple[int, ...] = (2, 3, 7, 9)
    sampling_steps: int = 15
    guidance: float = 2.0
    record: bool = False
    data: int = 1
    seq: int = 1
    distributed: bool = False

    def __post_init__(self):
        check_flags(self)
        if not math.isfinite(self.guidance):
            raise ValueError(f"guidance={self.guidance} must be a finite number, such as 2")
        for name in ("steps", "batch", "held_out", "sampling_steps"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        if not self.digits or not all(0 <= d <= 9 for d in self.digits):
            raise ValueError(f"digits={self.digits} must be 0 to 9, and one at least")
        if self.steps % self.save_every:
            raise ValueError(
                f"steps={self.steps} must be a multiple of save_every={self.save_every}, so that "
                "the end is measured; change one of them"
            )

    @property
    def stage(self) -> Stage:
        """What training draws: slow digits at the size of use."""
        return Stage(self.steps, *self.canvas, self.batch, shift=5.0, speed=SLOW)

    def flags(self) -> dict:
        """What decides the run's numbers, as JSON; on how many devices changes their rounding only."""
        values = dataclasses.asdict(self)
        for name in ("out", "record", *DEVICE_FLAGS):
            del values[name]
        values |= values.pop("loss")  # flat, as the records have it
        weights = self.weights.resolve()
        inside = weights.is_relative_to(ROOT)
        values["weights"] = weights.relative_to(ROOT).as_posix() if inside else weights.name
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def predict(
    model: TinyVideoDiT, batch: dict, attention: SparseAttention, *, remat: bool = False
) -> Prediction:
    """Velocity and every layer's attention output for one batch of `draw_batch`."""
    x = add_noise(batch["x0"], batch["noise"], batch["t"])
    recorded, grid = record(attention), model.grid(x.shape)
    heads = dict(num_heads=model.config.num_heads, head_dim=model.config.head_dim)
    out = model(
        x,
        batch["t"],
        batch["label"],
        attention=recorded,
        states=recorded.init(grid, batch=len(x), **heads),
        ctx=StepContext(grid, Phase.REUSE),
        remat=remat,
    )
    return Prediction(velocity(x, out.sample, batch["t"]), layer_outputs(out.states))


def finetuning_loss(student, teacher, batch, *, attention, weights, remat=False):
    """(loss, terms) of `distillation_loss` on one batch; both models start from one noisy clip."""
    dense = SparseAttention.uniform(Dense(), attention.num_layers)
    x = add_noise(batch["x0"], batch["noise"], batch["t"])
    return distillation_loss(
        predict(student, batch, attention, remat=remat),
        predict(teacher, batch, dense),
        velocity(x, batch["x0"], batch["t"]),
        grid=student.grid(x.shape),
        weights=weights,
    )


@functools.partial(
    jax.jit,
    static_argnames=("graph", "optimizer", "attention", "weights", "remat"),
    donate_argnames=("state",),
)
def finetune_step(state, teacher, batch, ema, *, graph, optimizer, attention, weights, remat=False):
    """One optimiser step of the student; `state` holds params, ema and opt_state and is donated."""

    def loss_of(params):
        student = nnx.merge(graph, params)
        return finetuning_loss(
            student, teacher, batch, attention=attention, weights=weights, remat=remat
        )

    (loss, _), grads = jax.value_and_grad(loss_of, has_aux=True)(state["params"])
    return next_state(state, grads, ema, optimizer), loss


class Finetuner:
    """The run in `config.out`: teacher, student's state, checkpoints, and its step."""

    def __init__(self, config: Config):
        self.config = config
        self.mesh = training_mesh(
            data=config.data,
            seq=config.seq,
            distributed=config.distributed,
            batches=[config.batch],
        )
        self.teacher = load_tiny(config.weights, dtype="bfloat16")
        self.graph, params = nnx.split(self.teacher)
        params = jax.tree.map(jnp.copy, params)  # steps donate the student's
        self.optimizer = make_optimizer(
            learning_rate=config.learning_rate, warmup=config.warmup, total_steps=config.steps
        )
        schedule = StepSchedule(config.sampling_steps)
        window, layers = SlidingTile(config.tile, config.window), self.teacher.config.num_layers
        self.attention = SparseAttention.uniform(window, layers, schedule)
        self.checkpoints = Checkpoints(config.out, config.flags())
        first = hosts.on_every(first_state(params, self.optimizer), self.mesh)
        self.step, self.state = self.checkpoints.restore(first)
        self._teacher = hosts.on_every(self.teacher, self.mesh)  # where the steps are taken

    def advance(self) -> float:
        """Takes one step and returns its loss."""
        rng = np.random.default_rng((self.config.seed, self.step))
        batch = draw_batch(
            rng, self.config.stage, self.teacher.config, drop_label=self.config.drop_label
        )
        with hosts.on(self.mesh):
            self.state, loss = finetune_step(
                self.state,
                self._teacher,
                hosts.by_rows(batch, self.mesh),
                decay_at(self.step, self.config.ema),
                graph=self.graph,
                optimizer=self.optimizer,
                attention=self.attention,
                weights=self.config.loss,
                remat=self.config.remat,
            )
        self.step += 1
        return float(loss)

    def save(self) -> None:
        """Writes a checkpoint of the present step, if there is none yet."""
        self.checkpoints.save(self.step, self.state)

    def student(self) -> TinyVideoDiT:
        """The student with averaged weights, on one device; before the first step it is the teacher."""
        return nnx.merge(self.graph, hosts.here(self.state["ema"]))
