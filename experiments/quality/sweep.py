"""Runs settings on the noise of a dense run, several clips at once, and measures what changes."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments import lpips
from experiments.quality.counted import counted
from experiments.quality.settings import Setting
from experiments.tiny_runs import SHIFT, OnStep, denoise
from models.tiny import TinyVideoDiT
from sparsevdit_jax import Phase, SparseAttention, VideoGrid, metrics


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clips:
    """What is drawn: the same for every setting.

    Attributes:
      digits: the conditions of one batch, one clip each.
      seed: of their noises, which differ from digit to digit.
      video: frames, rows and columns in pixels.
      steps: denoising steps.
      guidance: scale of classifier-free guidance.
      weights: SHA-256 of the checkpoint, 12 digits.
      dtype: of the model's matmuls.
    """

    digits: tuple[int, ...]
    seed: int
    video: tuple[int, int, int]
    steps: int
    guidance: float
    weights: str
    dtype: str

    def sampling(self) -> dict:
        """What a record says of its clip beside digit and seed."""
        found = dataclasses.asdict(self) | dict(video=list(self.video), shift=SHIFT)
        return {k: v for k, v in found.items() if k not in ("digits", "seed")}

    def noise(self, channels: int) -> jax.Array:
        """[digits, F, Y, X, C]; a digit's noise does not depend on the others in the batch."""
        key, shape = jax.random.key(self.seed), (*self.video, channels)
        return jnp.stack(
            [jax.random.normal(jax.random.fold_in(key, d), shape) for d in self.digits]
        )


def _denoise(model: TinyVideoDiT, clips: Clips, x, start: int, attention, on_step: OnStep):
    return denoise(
        model,
        x,
        clips.digits,
        steps=clips.steps,
        guidance=clips.guidance,
        attention=attention,
        start=start,
        on_step=on_step,
    )


def dense_run(model: TinyVideoDiT, clips: Clips, folder: Path, advance: Callable) -> np.ndarray:
    """The dense clips before every step and at the end, float32 [steps + 1, B, F, Y, X, C].

    Kept in `folder`, from where a sweep that goes on takes it.
    """
    text = json.dumps([clips.sampling(), clips.digits, clips.seed], sort_keys=True)
    path = folder / f"dense-{hashlib.sha256(text.encode()).hexdigest()[:16]}.npy"
    if path.is_file():
        return np.load(path)
    noise = clips.noise(model.config.channels)
    videos = [np.asarray(noise)]

    def on_step(phase, now):
        videos.append(np.array(now.x))
        advance(phase.value)

    _denoise(model, clips, noise, 0, None, on_step)
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.save(file, np.stack(videos))
    partial.replace(path)
    return np.stack(videos)


def run_setting(
    model: TinyVideoDiT, clips: Clips, setting: Setting, dense: np.ndarray, advance: Callable
) -> tuple[np.ndarray, list[float]]:
    """(clips float32 [B, F, Y, X, C], attention computed in each step of the run, 1 where dense).

    The steps that are dense in every setting are taken from `dense`.
    """
    attention = counted(setting.attention)
    start, grid = attention.schedule.dense_steps, model.grid(dense.shape[1:])
    kept = [1.0] * start

    def on_step(phase, now):
        del phase
        own = dict(num_heads=model.config.num_heads)
        kept.append(step_density(attention, grid, now.step - 1, now.states, **own))
        advance(f"{kept[-1]:.2f}")

    return np.asarray(_denoise(model, clips, dense[start], start, attention, on_step)), kept


def step_density(
    attention: SparseAttention, grid: VideoGrid, step: int, states: tuple, *, num_heads: int
) -> float:
    """Kept / all token pairs of a step, mean of layers, heads and batch rows.

    Args:
      attention: pattern per layer and schedule.
      grid: of the sequence.
      step: index of the step.
      states: of all layers, after it.
      num_heads: heads of a layer.
    """
    phase = attention.schedule.phase(step)
    if phase is Phase.DENSE:
        return 1.0
    if phase is Phase.FIRST_SEARCH:
        # It is dense: it computes what was kept before it, everything.
        states = attention.init(grid, batch=1, num_heads=num_heads, head_dim=1)

    def of_layer(pattern, state):
        if pattern.searches_densely and phase is not Phase.REUSE:
            return 1.0
        return metrics.density(pattern, grid, num_heads=num_heads, state=state, step=step).mean()

    layers = zip(attention.patterns, states, strict=True)
    return float(np.mean([of_layer(pattern, state) for pattern, state in layers]))


def closeness(clip: np.ndarray, reference: np.ndarray, weights: Mapping | None) -> dict[str, float]:
    """psnr_db, ssim and, with weights, lpips of a clip to its reference, float [F, Y, X, C] in [-1, 1].

    SSIM and LPIPS are means over frames.
    """
    clip, reference = (np.clip(x, -1, 1) for x in (clip, reference))
    found = dict(
        psnr_db=float(metrics.psnr(clip, reference, data_range=2.0)),
        ssim=float(metrics.ssim(clip, reference, data_range=2.0)),
    )
    if weights is not None:
        found["lpips"] = float(lpips.distance(weights, clip, reference).mean())
    return found
