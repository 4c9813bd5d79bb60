"""One process of a run in test_hosts.py: a command, the numbers it ends with, and a stop in its middle.

    python -m tests.experiments.one_host {generate,train} OUT STOP_AFTER [MODEL] FLAGS

FLAGS is JSON. After step STOP_AFTER has been saved the first process sleeps, while the others go on to wait for it.
"""

import json
import sys
import time
from pathlib import Path

import jax
import numpy as np

from experiments import generate, hosts, train_tiny
from experiments.curriculum import Plan, Stage
from experiments.generation import generation
from experiments.generation.settings import Config
from models.tiny import TinyConfig


def stop(out: Path, step: int, stop_after: int) -> None:
    """Sleeps until it is killed."""
    if step == stop_after and hosts.is_first():
        out.with_suffix(".stopped").touch()
        time.sleep(1000)


def run_generate(out: Path, stop_after: int, model: Path, **flags) -> None:
    """Ends with OUT.npz: the latents."""
    save, decode = generation.save_progress, generation.Generation._decode

    def saved(path, progress, settings):
        save(path, progress, settings)
        stop(out, progress.step, stop_after)

    def decoded(self, vae, x):
        np.savez(out.with_suffix(".npz"), x)
        return decode(self, vae, x)

    generation.save_progress, generation.Generation._decode = saved, decoded
    generate.main(Config(model=model, out=out.with_suffix(".mp4"), **flags))


def run_train(out: Path, stop_after: int, **flags) -> None:
    """Ends with OUT.npz: weights, their average and the optimiser's state."""
    save = train_tiny.Trainer.save

    def saved(self):
        save(self)
        stop(out, self.step, stop_after)
        if hosts.is_first():
            np.savez(out.with_suffix(".npz"), *map(np.asarray, jax.tree.leaves(self.state)))

    small = TinyConfig(dim=32, num_layers=1, num_heads=4, condition_tokens=2, patch=(1, 4, 4))
    train_tiny.TinyConfig, train_tiny.Trainer.save = lambda: small, saved
    train_tiny.PLANS["quick"] = Plan((Stage(4, 2, 8, 8, 2, 1.0, sparse=0.5),))
    train_tiny.main(train_tiny.Config(out=out, plan="quick", **flags))


if __name__ == "__main__":
    jax.config.update("jax_numpy_rank_promotion", "raise")
    jax.config.update("jax_disable_most_optimizations", True)  # as the `quickly` of other tests
    command, out, stop_after, *model, flags = sys.argv[1:]
    if command == "generate":  # optax mixes Python floats and integers in its own arithmetic
        jax.config.update("jax_numpy_dtype_promotion", "strict")
    run = {"generate": run_generate, "train": run_train}[command]
    run(Path(out), int(stop_after), *map(Path, model), **json.loads(flags))
