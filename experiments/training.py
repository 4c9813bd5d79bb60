"""What training runs share: optimiser, step of the weights and their average, checkpoints, and the loop."""

import functools
import json
import math
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, PartitionSpec

from experiments import hosts
from experiments.new_file import check_new
from experiments.progress import progress_bar

DEVICE_FLAGS = ("data", "seq", "distributed")
"""Flags of every training run that `training_mesh` reads."""


def check_flags(config: Any) -> None:
    """Refuses numbers of a training run that cannot be, by the names that all of them have.

    Raises:
      ValueError: with flag, rule and what is usual.
    """
    rules = {
        "learning_rate": (
            lambda x: math.isfinite(x) and x > 0,
            "a finite number above 0, such as 6e-4",
        ),
        "warmup": (lambda x: x >= 0, "a number of steps from 0 on"),
        "ema": (lambda x: 0 <= x < 1, "in [0, 1), such as 0.99; 0 keeps no average"),
        "drop_label": (lambda x: 0 <= x <= 1, "a share, 0 to 1"),
        "seed": (lambda x: 0 <= x < 2**32, f"in 0..{2**32 - 1}"),
        "save_every": (lambda x: x >= 1, "at least 1"),
    }
    for name, (holds, rule) in rules.items():
        if not holds(value := getattr(config, name)):
            raise ValueError(f"{name}={value} must be {rule}")


@functools.cache  # equal arguments give one object, so that a step compiles once
def make_optimizer(
    *, learning_rate: float, warmup: int, total_steps: int
) -> optax.GradientTransformation:
    """AdamW under a warm-up and a cosine to 2 % of the peak, gradients clipped to norm 1."""
    warmup = min(warmup, total_steps // 4)
    rate = optax.warmup_cosine_decay_schedule(
        0.0, learning_rate, warmup, total_steps, 0.02 * learning_rate
    )
    return optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(rate, b2=0.98, weight_decay=0.01)
    )


def first_state(params: Any, optimizer: optax.GradientTransformation) -> dict:
    """Weights, their average and the optimiser's state before the first step."""
    average = jax.tree.map(jnp.copy, params)
    return dict(params=params, ema=average, opt_state=optimizer.init(params))


def next_state(state: dict, grads: Any, ema: jax.Array, optimizer) -> dict:
    """The state after one optimiser step; the average keeps a share `ema` of itself."""
    updates, opt_state = optimizer.update(grads, state["opt_state"], state["params"])
    params = optax.apply_updates(state["params"], updates)
    average = jax.tree.map(lambda old, new: old * ema + new * (1 - ema), state["ema"], params)
    after = dict(params=params, ema=average, opt_state=opt_state)
    if jax.sharding.get_abstract_mesh().empty:
        return after
    return jax.lax.with_sharding_constraint(after, PartitionSpec())  # whole on every device


def decay_at(step: int, ema: float) -> np.float32:
    """The average's decay: less at first, to forget the start quickly."""
    return np.float32(min(ema, (1 + step) / (10 + step)))


def training_mesh(*, data: int, seq: int, distributed: bool, batches: Iterable[int]) -> Mesh | None:
    """The mesh of a training run's flags; None for one device.

    Args:
      data: devices over which the clips of a batch are spread.
      seq: devices over which the tokens of a clip are spread.
      distributed: they are those of several processes.
      batches: clips in the batches that will come.

    Raises:
      ValueError: a batch cannot be spread evenly, or the devices are others.
    """
    if odd := sorted({batch for batch in batches if data > 0 and batch % data}):
        raise ValueError(
            f"data={data} must divide the clips of every batch, but some have {', '.join(map(str, odd))}; pass a "
            "smaller --data, and shard a clip's tokens with --seq"
        )
    return hosts.mesh_of(distributed=distributed, data=data, seq=seq)


class Checkpoints:
    """Saved states of the run in a folder; a folder that belongs to a run with other flags is refused.

    Args:
      out: the run's folder, made if absent.
      flags: what decides the run's numbers, as JSON.
    """

    def __init__(self, out: Path, flags: dict):
        import orbax.checkpoint as ocp

        check_new(out / "config.json")
        out.mkdir(parents=True, exist_ok=True)
        _refuse_other_run(out / "config.json", flags)
        options = ocp.CheckpointManagerOptions(max_to_keep=2)
        self.manager = ocp.CheckpointManager(out.resolve() / "checkpoints", options=options)

    def restore(self, state: dict) -> tuple[int, dict]:
        """The newest (step, state), or 0 and the given state where nothing has been saved."""
        import orbax.checkpoint as ocp

        step = self.manager.latest_step() or 0
        if step:
            state = self.manager.restore(step, args=ocp.args.StandardRestore(state))
        return step, state

    def save(self, step: int, state: dict) -> None:
        """Writes the state of `step`, if it is not there yet."""
        import orbax.checkpoint as ocp

        if step != self.manager.latest_step():
            self.manager.save(step, args=ocp.args.StandardSave(state))
            self.manager.wait_until_finished()


def _refuse_other_run(path: Path, flags: dict) -> None:
    hosts.barrier("the run's folder is there")
    if path.exists() and (stored := json.loads(path.read_text())) != flags:
        changed = ", ".join(
            f"{k}: {stored.get(k)} -> {v}" for k, v in flags.items() if stored.get(k) != v
        )
        raise SystemExit(f"{path} belongs to a run with other flags ({changed}); use another --out")
    hosts.barrier("the run's flags are read")
    if hosts.is_first():
        path.write_text(json.dumps(flags, indent=1) + "\n")


class Trainable(Protocol):
    """What `train` drives."""

    step: int

    def advance(self) -> float:
        """Takes one step and returns its loss."""
        ...

    def save(self) -> None:
        """Makes the present step one that a run can go on from."""
        ...


def train(
    trainer: Trainable,
    *,
    total: int,
    save_every: int,
    curve: Path,
    after_save: Callable[[], None],
) -> None:
    """Steps on to `total`; an interrupt saves, and then ends the program.

    Of several processes, which an interrupt finds at different steps, none saves then.

    Args:
      trainer: from whichever step it stands at.
      total: steps of the whole run.
      save_every: steps between checkpoints.
      curve: JSON lines, the mean loss of each 50 steps.
      after_save: called after each of these checkpoints, on the first process.
    """
    losses, began = [], time.time()
    with progress_bar("training", total=total, done=trainer.step) as advance:
        try:
            while trainer.step < total:
                losses.append(trainer.advance())
                advance(f"loss {np.mean(losses[-50:]):.3f}")
                if trainer.step % 50 == 0 and hosts.is_first():
                    mean, seconds = float(np.mean(losses[-50:])), time.time() - began
                    with open(curve, "a") as file:
                        line = dict(step=trainer.step, loss=mean, seconds=seconds)
                        file.write(json.dumps(line) + "\n")
                if trainer.step % save_every == 0:
                    trainer.save()
                    if hosts.is_first():
                        after_save()
        except KeyboardInterrupt:
            if jax.process_count() > 1:
                sys.exit("stopped; the same command goes on from the last checkpoint")
            trainer.save()
            sys.exit(f"stopped at step {trainer.step}, saved; the same command goes on from here")
    trainer.save()
