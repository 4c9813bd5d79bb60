"""Runs the demo's methods on one noise, and times their steps."""

import dataclasses
import math
import statistics
import time
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments.demo.methods import Method, published_methods, warm_up_steps
from experiments.progress import progress_bar
from models.sampling import generate
from models.tiny import TinyVideoDiT, load_tiny
from sparsevdit_jax import Phase
from sparsevdit_jax.schedule import exact_steps

WEIGHTS = Path(__file__).parents[1] / "checkpoints" / "tiny_digits.safetensors"
VIDEO = (32, 64, 64)
"""Frames, rows and columns of the clip: 16 x 16 x 16 tokens."""

SHIFT = 4.0
"""Flow shift of the sampler; training used 3 on this canvas."""

PROBE = 0.5
"""Where in the sparse part of a run attention is measured."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Flags of the demo.

    Attributes:
      digit: 0 to 9, what to draw.
      seed: of the noise.
      steps: denoising steps.
      guidance: scale of classifier-free guidance.
      out: folder to write; must not exist yet, be empty, or be an earlier demo's, which is replaced at the end.
      weights: checkpoint of a TinyVideoDiT.
      dtype: of matmuls; "auto" takes bfloat16 where the processor multiplies it faster.
      only: keys of the methods to run beside dense; all by default.
      video: frames, rows and columns in pixels; the checkpoint was trained for the default.
      record: also append the rows to experiments/results/demo.jsonl, from which the README's table is made.
    """

    digit: int = 7
    seed: int = 7
    steps: int = 30
    guidance: float = 2.0
    out: Path = Path("out/demo")
    weights: Path = WEIGHTS
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    only: tuple[str, ...] = ()
    video: tuple[int, int, int] = VIDEO
    record: bool = False

    def __post_init__(self):
        if not 0 <= self.digit <= 9:
            raise ValueError(f"digit={self.digit} must be one of 0 to 9")
        if self.steps < 5:
            raise ValueError(f"steps={self.steps} must be at least 5: warm-up, two searches, reuse")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed={self.seed} must lie in 0 to {2**32 - 1}")
        if not math.isfinite(self.guidance):
            raise ValueError(f"guidance={self.guidance} must be a finite number, such as 2")
        known = [m.key for m in published_methods(1, self.steps)[1:]] + ["per-head"]
        if unknown := sorted(set(self.only) - set(known)):
            raise ValueError(f"only={unknown} names no method; choose from {known}")


def faster_dtype() -> str:
    """The dtype in which this machine multiplies faster, bfloat16 only if by a quarter."""
    best = {}
    for name in ("float32", "bfloat16"):
        x = jnp.ones((1024, 1024), name)
        product = jax.jit(lambda x: jnp.dot(x, x, preferred_element_type=jnp.float32))
        product(x).block_until_ready()
        runs = []
        for _ in range(5):
            began = time.perf_counter()
            product(x).block_until_ready()
            runs.append(time.perf_counter() - began)
        best[name] = min(runs)
    return "bfloat16" if best["bfloat16"] < 0.75 * best["float32"] else "float32"


def load_model(config: Config) -> tuple[TinyVideoDiT, str]:
    """The trained model and the dtype that it computes in."""
    dtype = faster_dtype() if config.dtype == "auto" else config.dtype
    return load_tiny(config.weights, dtype=dtype), dtype


class Runner:
    """Runs methods on one noise; the dense run, which comes first, leaves what the others start from."""

    def __init__(self, config: Config, model: TinyVideoDiT):
        self.config, self.model = config, model
        shape = (1, *config.video, model.config.channels)
        self.grid = model.grid(shape)
        self.noise = jax.random.normal(jax.random.key(config.seed), shape)
        start = warm_up_steps(config.steps)
        self.probe_step = start + int(PROBE * (config.steps - start))
        # AdaSpa's first search is the last of the exact steps, so it forks one step earlier.
        self.wanted = {start - 1, start, self.probe_step}
        self.kept = {0: self.noise}
        self.dense_ms = float("nan")

    def run(self, method: Method) -> dict:
        """Denoises with `method`: its clip float32 [F, Y, X, C] in [-1, 1], step_ms, run_s and phases."""
        attention, total = method.attention, self.config.steps
        first = 0 if attention is None else attention.schedule.dense_steps
        seconds: dict[Phase | None, list[float]] = {}
        began = time.perf_counter()
        with progress_bar(method.label, total=total, done=first) as advance:

            def on_step(step, phase, x, _):
                nonlocal began
                x.block_until_ready()
                seconds.setdefault(phase, []).append(time.perf_counter() - began)
                if attention is None and step + 1 in self.wanted:
                    self.kept[step + 1] = jnp.array(x)
                advance(phase.value if phase else "dense")
                began = time.perf_counter()

            clip = generate(
                self.model,
                self.kept[first],
                [self.config.digit],
                num_steps=total,
                attention=attention,
                guidance=self.config.guidance,
                unconditional=self.model.config.num_classes,
                shift=SHIFT,
                start=first,
                on_step=on_step,
            )
        return dict(clip=np.clip(np.asarray(clip)[0], -1, 1), **self._times(method, seconds))

    def _times(self, method: Method, seconds: dict) -> dict:
        """Median step times; the first step of a phase compiled its program and is left out.

        `run_s` is the time of all steps without compiling, shared warm-up included.
        """
        median = {p: 1e3 * statistics.median(v[1:] or v) for p, v in seconds.items()}
        steps = self.config.steps
        if method.attention is None:
            self.dense_ms = median[None]
            return dict(
                step_ms=self.dense_ms, run_s=steps * self.dense_ms / 1e3, phases={"dense": steps}
            )
        schedule, reuse = method.attention.schedule, median[Phase.REUSE]
        counts, exact = schedule.counts(), exact_steps(schedule)
        search = median.get(Phase.SEARCH, reuse) - reuse  # what a search adds, to an exact step too
        run = exact * self.dense_ms + (steps - exact) * reuse + counts.get(Phase.SEARCH, 0) * search
        return dict(step_ms=reuse, run_s=run / 1e3, phases={p.value: n for p, n in counts.items()})
