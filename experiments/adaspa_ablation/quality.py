"""Measures PSNR and SSIM against dense attention for AdaSpa, with one setting changed at a time."""

import dataclasses
from pathlib import Path
from typing import Literal

import jax.numpy as jnp
import numpy as np

from experiments.adaspa_ablation.tiny import check_digits, kept, noise, scaled
from experiments.demo.clip_runner import VIDEO, WEIGHTS
from experiments.progress import progress_bar
from experiments.tiny_runs import denoise
from models.tiny import TinyVideoDiT
from sparsevdit_jax import SparseAttention, StepSchedule, metrics
from sparsevdit_jax.patterns import AdaSpa
from sparsevdit_jax.schedule import attention_cost


@dataclasses.dataclass(frozen=True, kw_only=True)
class QualityConfig:
    """Settings of the quality part.

    Attributes:
      digits: the clips, one class each; all are denoised in one batch.
      seed: of their noise.
      steps: denoising steps.
      guidance: scale of classifier-free guidance.
      video: frames, rows and columns in pixels.
      weights: checkpoint of a TinyVideoDiT.
      dtype: of matmuls.
    """

    digits: tuple[int, ...] = (0, 3, 7)
    seed: int = 1
    steps: int = 20
    guidance: float = 2.0
    video: tuple[int, int, int] = VIDEO
    weights: Path = WEIGHTS
    dtype: Literal["bfloat16", "float32"] = "bfloat16"

    def __post_init__(self):
        check_digits(self.digits)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
    """AdaSpa with one setting changed.

    Attributes:
      name: what was changed.
      question: which ablation it belongs to.
      search: the paper's search steps, of 50.
      pattern: settings of AdaSpa besides the density.
    """

    name: str
    question: str
    search: tuple[int, ...] = (10, 30)
    pattern: dict = dataclasses.field(default_factory=dict)

    def attention(self, density: float, steps: int, num_layers: int) -> SparseAttention:
        """Pattern and schedule for a run of `steps`."""
        schedule = StepSchedule.adaspa(steps, scaled(self.search, steps), first_step=1)
        return SparseAttention.uniform(AdaSpa(density, **self.pattern), num_layers, schedule)


FOUR = (10, 20, 30, 40)
VARIANTS = (
    Variant(name="paper: {10, 30}", question="search steps"),
    Variant(name="{10}", question="search steps", search=(10,)),
    Variant(name="{10, 20, 30}", question="search steps", search=(10, 20, 30)),
    Variant(name="{10, 20, 30, 40}", question="search steps", search=FOUR),
    Variant(name="equal heads", question="head-adaptive", pattern=dict(head_adaptive=False)),
    Variant(name="no LSE cache", question="LSE cache", pattern=dict(lse_cache=False)),
    Variant(
        name="no LSE cache, {10, 20, 30, 40}",
        question="LSE cache",
        search=FOUR,
        pattern=dict(lse_cache=False),
    ),
    Variant(name="block 32", question="block", pattern=dict(block=32)),
    Variant(name="block 128", question="block", pattern=dict(block=128)),
)


def dense_run(model: TinyVideoDiT, config: QualityConfig, out: Path) -> dict[str, np.ndarray]:
    """`fork` (the clips before the first search step) and `clip` (the end) of the dense run."""
    fork = scaled(VARIANTS[0].search, config.steps)[0] - 1

    def make():
        start = noise(model, config.video, config.seed, len(config.digits))
        found = {"fork": np.asarray(start)}
        with progress_bar("dense", total=config.steps) as advance:

            def on_step(phase, now):
                del phase
                if now.step == fork:
                    found["fork"] = np.array(now.x)
                advance()

            clip = denoise(
                model,
                start,
                config.digits,
                steps=config.steps,
                guidance=config.guidance,
                on_step=on_step,
            )
        return dict(found, clip=np.clip(clip, -1, 1))

    return kept(out / "quality_dense.npz", config, make)


def measure(
    model: TinyVideoDiT, variant: Variant, density: float, config: QualityConfig, dense: dict
) -> dict:
    """One line of the records: quality of `variant` against the dense run."""
    sizes, steps = model.config, config.steps
    attention = variant.attention(density, steps, sizes.num_layers)
    grid, start = model.grid(dense["clip"].shape), attention.schedule.dense_steps
    shares = []
    with progress_bar(f"{variant.name}, {density}", total=steps, done=start) as advance:

        def on_step(phase, now):
            now.x.block_until_ready()
            if now.step == steps:
                for pattern, state in zip(attention.patterns, now.states, strict=True):
                    shares.append(
                        metrics.density(pattern, grid, num_heads=sizes.num_heads, state=state)
                    )
            advance(phase.value)

        clips = denoise(
            model,
            dense["fork"],
            config.digits,
            steps=steps,
            guidance=config.guidance,
            attention=attention,
            start=start,
            on_step=on_step,
        )
    clips = jnp.clip(clips, -1, 1)
    pairs = [(a, jnp.asarray(b)) for a, b in zip(clips, dense["clip"], strict=True)]
    psnr = [float(metrics.psnr(a, b, data_range=2.0)) for a, b in pairs]
    ssim = [float(metrics.ssim(a, b, data_range=2.0)) for a, b in pairs]
    kept_share = float(np.mean(shares))
    cost = attention_cost(attention.schedule, kept_share, lse_cache=attention.patterns[0].lse_cache)
    return dict(
        variant=variant.name,
        question=variant.question,
        asked_density=density,
        density=kept_share,
        search_steps=attention.schedule.search_steps,
        psnr_db=float(np.mean(psnr)),
        psnr_by_clip_db=[round(v, 3) for v in psnr],
        ssim=float(np.mean(ssim)),
        ssim_by_clip=[round(v, 5) for v in ssim],
        attention_cost_ratio=cost / steps,
    )
