"""Measures a finetuned model: held-out losses, sampled clips, and pictures of both."""

import dataclasses
import functools
from pathlib import Path

import jax
import numpy as np

from experiments.finetune_sta.finetuner import Finetuner, finetuning_loss
from experiments.loss_curve import draw_recovery
from experiments.media import contact_sheet, to_uint8
from experiments.record import RESULTS, Run, read
from experiments.tiny_runs import denoise
from experiments.train_tiny import draw_batch
from sparsevdit_jax import SparseAttention, metrics
from sparsevdit_jax.patterns import Dense

HELD_OUT = 10**6
"""Seeds of what is measured start here, after those of the training steps."""


measure_terms = jax.jit(finetuning_loss, static_argnames=("attention", "weights", "remat"))
QUALITY = {
    "psnr_db": jax.jit(functools.partial(metrics.psnr, data_range=2.0)),
    "ssim": jax.jit(functools.partial(metrics.ssim, data_range=2.0)),
}


def _quality(clips, reference) -> dict:
    """PSNR and SSIM of each clip against the dense one; both are in [-1, 1]."""
    pairs = list(zip(clips, reference, strict=True))
    return {
        key: [round(float(metric(a, b)), 4) for a, b in pairs] for key, metric in QUALITY.items()
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
        """Measures dense attention and the student of the present step, unless they are on record.

        Also a black clip: most of a canvas is dark, so that it is what a student has to beat.
        """
        tuner = self.tuner
        dense = SparseAttention.uniform(
            Dense(), tuner.attention.num_layers, tuner.attention.schedule
        )
        reference = self._clips("dense", tuner.teacher, dense)
        self._log("dense", lambda: self._losses(tuner.teacher, dense))
        self._log("black", lambda: _quality(np.full_like(reference, -1), reference))
        student = tuner.student()
        clips = self._clips("student", student, tuner.attention)
        self._log(
            "student",
            lambda: self._losses(student, tuner.attention) | _quality(clips, reference),
        )

    def _log(self, name, measure):
        step = self._step(name)
        if any((row["model"], row["step"]) == (name, step) for row in self.rows()):
            return
        self.run.log(model=name, step=step, **measure())

    def _losses(self, model, attention) -> dict:
        """Density of the first layer's pattern, and the loss's terms of each held-out clip."""
        measure = functools.partial(measure_terms, attention=attention, weights=self.config.loss)
        losses = [measure(model, self.tuner.teacher, batch)[1] for batch in self.batches]
        pattern, density = attention.patterns[0], 1.0
        if pattern != Dense():
            grid = model.grid(self.batches[0]["x0"].shape)
            kept = metrics.density(pattern, grid, num_heads=model.config.num_heads)
            density = float(kept.mean())
        return dict(density=density) | {
            f"held_out_{term}_loss": [round(float(row[term]), 6) for row in losses]
            for term in ("data", "final", "attention")
        }

    def _clips(self, name, model, attention) -> np.ndarray:
        """float32 [clips, F, Y, X, C] in [-1, 1], one of each digit; sampled once."""
        path = self._path(name, self._step(name))
        if not path.exists():
            np.save(path, self._sample(model, attention))
        return np.load(path)

    def _sample(self, model, attention):
        clips = []
        for i, digit in enumerate(self.config.digits):
            key = jax.random.key(HELD_OUT + 100 * self.config.seed + i)
            clip = denoise(
                model,
                jax.random.normal(key, self.batches[0]["x0"].shape),
                [digit],
                steps=self.config.sampling_steps,
                guidance=self.config.guidance,
                attention=attention,
            )
            clips.append(np.clip(np.asarray(clip)[0], -1, 1))
        return np.stack(clips)

    def _step(self, name: str) -> int:
        return self.tuner.step if name == "student" else 0

    def _path(self, name: str, step: int) -> Path:
        return self.config.out / f"clips_{name}_{step:06d}.npy"

    def draw(self) -> None:
        """The curve from the records, and frames of the clips: dense, before, after."""
        folder = self.run.folder / "pictures"
        folder.mkdir(exist_ok=True)
        draw_recovery(self.rows(), folder / "finetune_sta.png")
        sheet, names = {}, (("dense", 0), ("student", 0), ("student", self.tuner.step))
        sources = [(name, step, np.load(self._path(name, step))) for name, step in names]
        for i, digit in enumerate(self.config.digits):
            for name, step, clips in sources:
                steps = "" if name == "dense" else f" after {step} steps"
                sheet[f"{digit}: {name}{steps}"] = to_uint8(clips[i])
        contact_sheet(folder / "finetune_sta_clips.png", sheet)
