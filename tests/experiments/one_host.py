"""One process of a run in test_hosts.py: commands, the numbers they end with, and a stop in the middle.

    python -m tests.experiments.one_host {generate,train,finetune} RUNS [--stop]

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
from experiments.finetune_sta import __main__ as finetune_sta
from experiments.finetune_sta import finetuner
from experiments.generation import generation
from experiments.generation.generate_flags import Config
from models.tiny import TinyConfig

SMALL = TinyConfig(dim=32, num_layers=1, num_heads=4, condition_tokens=2, patch=(1, 4, 4))


def stop(out: Path, step: int) -> None:
    """Sleeps until it is killed, if this run is the one to be."""
    if sys.argv[-1] == "--stop" and str(out) == list(RUNS)[-1] and step == 2 and hosts.is_first():
        out.with_suffix(".stopped").touch()
        time.sleep(1000)


def watch_generate() -> None:
    """Stops after a save, and writes latents and video to OUT.npz."""
    save, decode = generation.save_progress, generation.Generation._decode

    def saved(path, progress, settings):
        save(path, progress, settings)
        stop(path.with_suffix("").with_suffix(""), progress.step)

    def decoded(self, vae, x):
        video = decode(self, vae, x)
        write(self.config.out, [x, video])
        return video

    generation.save_progress, generation.Generation._decode = saved, decoded


def watch(trainer) -> None:
    """Stops after a save, and writes weights, average and optimiser's state to OUT.npz."""
    save = trainer.save

    def saved(self):
        save(self)
        stop(self.config.out, self.step)
        write(self.config.out, jax.tree.leaves(self.state))

    trainer.save = saved


def write(out: Path, arrays) -> None:
    if hosts.is_first():
        np.savez(out.with_suffix(".npz"), *map(np.asarray, arrays))


if __name__ == "__main__":
    kind, RUNS = sys.argv[1], json.loads(sys.argv[2])
    jax.config.update("jax_numpy_rank_promotion", "raise")
    if kind == "generate":  # optax mixes Python floats and integers in its own arithmetic
        jax.config.update("jax_numpy_dtype_promotion", "strict")
        watch_generate()
        for out, flags in RUNS.items():
            files = {name: Path(flags.pop(name)) for name in ("model", "image") if name in flags}
            lora = tuple(map(Path, flags.pop("lora", ())))
            generate.main(Config(out=Path(out).with_suffix(".mp4"), lora=lora, **files, **flags))
    elif kind == "train":
        watch(train_tiny.Trainer)
        train_tiny.TinyConfig = lambda: SMALL
        train_tiny.PLANS["quick"] = Plan((Stage(4, 2, 8, 8, 2, 1.0, sparse=1.0),))
        for out, flags in RUNS.items():
            train_tiny.main(train_tiny.Config(out=Path(out), plan="quick", **flags))
    else:
        watch(finetuner.Finetuner)
        for out, flags in RUNS.items():
            weights = Path(flags.pop("weights"))
            finetune_sta.main(finetuner.Config(out=Path(out), weights=weights, **flags))
