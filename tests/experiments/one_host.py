"""One process of a run in test_hosts.py: commands, the numbers they end with, and a stop in the middle.

    python -m tests.experiments.one_host {generate,train} RUNS [--stop]

RUNS is JSON: the flags of each OUT, one run after the other. With --stop the first process sleeps in the last one
after it has saved step 2, while the others go on to wait for it.
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


def stop(out: Path, step: int) -> None:
    """Sleeps until it is killed, if this run is the one to be."""
    if sys.argv[-1] == "--stop" and str(out) == list(RUNS)[-1] and step == 2 and hosts.is_first():
        out.with_suffix(".stopped").touch()
        time.sleep(1000)


def watch_generate() -> None:
    """Stops after a save, and writes the latents to OUT.npz."""
    save, decode = generation.save_progress, generation.Generation._decode

    def saved(path, progress, settings):
        save(path, progress, settings)
        stop(path.with_suffix("").with_suffix(""), progress.step)

    def decoded(self, vae, x):
        np.savez(self.config.out.with_suffix(".npz"), x)
        return decode(self, vae, x)

    generation.save_progress, generation.Generation._decode = saved, decoded


def watch_train() -> None:
    """Trains little, stops after a save, and writes weights, average and optimiser's state to OUT.npz."""
    save = train_tiny.Trainer.save

    def saved(self):
        save(self)
        stop(self.config.out, self.step)
        if hosts.is_first():
            leaves = map(np.asarray, jax.tree.leaves(self.state))
            np.savez(self.config.out.with_suffix(".npz"), *leaves)

    small = TinyConfig(dim=32, num_layers=1, num_heads=4, condition_tokens=2, patch=(1, 4, 4))
    train_tiny.TinyConfig, train_tiny.Trainer.save = lambda: small, saved
    train_tiny.PLANS["quick"] = Plan((Stage(4, 2, 8, 8, 2, 1.0, sparse=1.0),))


if __name__ == "__main__":
    kind, RUNS = sys.argv[1], json.loads(sys.argv[2])
    jax.config.update("jax_numpy_rank_promotion", "raise")
    jax.config.update("jax_disable_most_optimizations", True)  # as the `quickly` of other tests
    if kind == "generate":
        jax.config.update("jax_numpy_dtype_promotion", "strict")
        watch_generate()
        for out, flags in RUNS.items():
            files = dict(model=Path(flags.pop("model")), out=Path(out).with_suffix(".mp4"))
            generate.main(Config(**files, **flags))
    else:  # optax mixes Python floats and integers in its own arithmetic
        watch_train()
        for out, flags in RUNS.items():
            train_tiny.main(train_tiny.Config(out=Path(out), plan="quick", **flags))
