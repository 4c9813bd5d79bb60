"""What the finetuned model is worth: held-out losses, sampled clips, and pictures of both."""

import dataclasses
import functools
from pathlib import Path

import jax
import numpy as np

from experiments.demo.runner import SHIFT
from experiments.finetune_sta.finetuner import Finetuner, finetuning_loss
from experiments.loss_curve import draw_recovery
from experiments.media import contact_sheet, to_uint8
from experiments.record import RESULTS, Run, read
from experiments.train_tiny import draw_batch
from models.sampling import generate
from sparsevdit_jax import SparseAttention, metrics
from sparsevdit_jax.patterns import Dense

HELD_OUT = 10**6
"""Seeds of what is measured start here, after those of the training steps."""


measure_terms = jax.jit(finetuning_loss, static_argnames=("attention", "weights", "remat"))
QUALITY = {
    "psnr_db": jax.jit(functools.partial(metrics.psnr, data_range=2.0)),
    "ssim": jax.jit(functools.partial(metrics.ssim, data_range=2.0)),
}


class Measurements:
    """What is measured of dense attention and of the student, each once, and the pictures of it."""

    def __init__(self, tuner: Finetuner):
        self.tuner, self.config = tuner, tuner.config
        folder = RESULTS if self.config.record else self.config.out
        self.run = Run.start(
            "finetune_sta", self.config.flags(), allow_dirty=not self.config.record, folder=folder
        )
        stage, shape = self.config.stage, tuner.teacher.config
        one = dataclasses.replace(stage, batch=1)
        seeds = [(self.config.seed, HELD_OUT + i) for i in range(self.config.held_out)]
        self.batches = [
            draw_batch(
                np.random.default_rng(seed),
                one,
                shape,
                drop_label=self.config.drop_label,
                held_out=True,
            )
            for seed in seeds
        ]

    def rows(self) -> list[dict]:
        """What this run's flags have been measured to give, oldest first."""
        if not self.run.path.exists():
            return []
        rows = read("finetune_sta", folder=self.run.folder)
        return [row["measured"] for row in rows if row["config"] == self.run.config]

    def take(self) -> None:
        """Measures dense attention and the student of the present step, unless they are on record."""
        tuner = self.tuner
        dense = SparseAttention.uniform(
            Dense(), tuner.attention.num_layers, tuner.attention.schedule
        )
        reference = self._clips("dense", tuner.teacher, dense)
        self._measure("dense", tuner.teacher, dense, reference, reference)
        student = tuner.student()
        clips = self._clips("student", student, tuner.attention)
        self._measure("student", student, tuner.attention, clips, reference)

    def _measure(self, name, model, attention, clips, reference):
        step = 0 if name == "dense" else self.tuner.step
        if any((row["model"], row["step"]) == (name, step) for row in self.rows()):
            return
        measure = functools.partial(measure_terms, attention=attention, weights=self.tuner.weights)
        losses = [measure(model, self.tuner.teacher, batch)[1] for batch in self.batches]
        terms = {
            f"held_out_{term}_loss": [round(float(row[term]), 6) for row in losses]
            for term in ("data", "final", "attention")
        }
        pairs, quality = list(zip(clips, reference, strict=True)), {}
        if name != "dense":  # PSNR of a clip against itself is infinite
            for key, metric in QUALITY.items():
                quality[key] = [round(float(metric(a, b)), 4) for a, b in pairs]
        grid, heads = model.grid(clips.shape), model.config.num_heads
        density = 1.0
        if name != "dense":
            density = float(metrics.density(attention.patterns[0], grid, num_heads=heads).mean())
        self.run.log(model=name, step=step, density=density, **terms, **quality)

    def _clips(self, name, model, attention) -> np.ndarray:
        """float32 [clips, F, Y, X, C] in [-1, 1], one of each digit; sampled once."""
        path = self._path(name, 0 if name == "dense" else self.tuner.step)
        if not path.exists():
            np.save(path, self._sample(model, attention))
        return np.load(path)

    def _sample(self, model, attention):
        clips = []
        for i, digit in enumerate(self.config.digits):
            key = jax.random.key(HELD_OUT + 100 * self.config.seed + i)
            clip = generate(
                model,
                jax.random.normal(key, self.batches[0]["x0"].shape),
                [digit],
                num_steps=self.config.sampling_steps,
                attention=attention,
                guidance=self.config.guidance,
                unconditional=model.config.num_classes,
                shift=SHIFT,
            )
            clips.append(np.clip(np.asarray(clip)[0], -1, 1))
        return np.stack(clips)

    def _path(self, name: str, step: int) -> Path:
        return self.config.out / f"clips_{name}_{step:06d}.npy"

    def draw(self) -> None:
        """The curve from the records, and frames of the clips: dense, before, after."""
        draw_recovery(self.rows(), self.config.out / "finetune_sta.png")
        sheet, names = {}, (("dense", 0), ("student", 0), ("student", self.tuner.step))
        sources = [(name, step, np.load(self._path(name, step))) for name, step in names]
        for i, digit in enumerate(self.config.digits):
            for name, step, clips in sources:
                steps = "" if name == "dense" else f" after {step} steps"
                sheet[f"{digit}: {name}{steps}"] = to_uint8(clips[i])
        contact_sheet(self.config.out / "clips.png", sheet)
