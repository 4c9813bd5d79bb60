"""Runs the demo's methods on one noise, and times their steps."""

import dataclasses
import math
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments.demo.methods import KEYS, SHOWN, Method, warm_up_steps
from models.sampling import denoise_step, generate, sampling_times
from models.tiny import TinyVideoDiT
from sparsevdit_jax import Phase, StepContext

WEIGHTS = Path(__file__).parents[1] / "checkpoints" / "tiny_digits.safetensors"
VIDEO = (32, 64, 64)
"""Frames, rows and columns of the clip: 16 x 16 x 16 tokens."""

SHIFT = 4.0
"""Flow shift of the sampler; training used 3 on this canvas."""

STEPS, STEPS_OF_ALL = 8, 30
"""Denoising steps by default, and with --all."""

PROBE = 0.5
"""Where in the sparse part of a run attention is measured."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Flags of the demo.

    Attributes:
      digit: 0 to 9, what to draw.
      seed: of the noise.
      steps: denoising steps; 8 by default, 30 with --all.
      guidance: scale of classifier-free guidance.
      out: folder to write; must not exist yet, be empty, or be an earlier demo's, which is replaced at the end.
      weights: checkpoint of a TinyVideoDiT.
      dtype: of matmuls; "auto" takes bfloat16 where the processor multiplies it faster.
      all: run every method and setting, not only those that say most.
      only: keys of the methods to run beside dense, in place of the usual ones.
      video: frames, rows and columns in pixels; the checkpoint was trained for the default.
      record: also append the rows to experiments/results/demo.jsonl, from which the README's table is made.
    """

    digit: int = 3
    seed: int = 1
    steps: int | None = None
    guidance: float = 2.0
    out: Path = Path("out/demo")
    weights: Path = WEIGHTS
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    all: bool = False
    only: tuple[str, ...] = ()
    video: tuple[int, int, int] = VIDEO
    record: bool = False

    def __post_init__(self):
        if self.steps is None:
            object.__setattr__(self, "steps", STEPS_OF_ALL if self.all else STEPS)
        if not 0 <= self.digit <= 9:
            raise ValueError(f"digit={self.digit} must be one of 0 to 9")
        if not 5 <= self.steps <= 1000:
            raise ValueError(
                f"steps={self.steps} must lie in 5..1000: warm-up, two searches, reuse; 8 to 50 are usual"
            )
        if math.prod(self.video) > 64 * math.prod(VIDEO):
            raise ValueError(
                f"video={self.video} must hold at most 64 times the pixels of {VIDEO}, which the model was trained for"
            )
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed={self.seed} must lie in 0 to {2**32 - 1}")
        if not math.isfinite(self.guidance):
            raise ValueError(f"guidance={self.guidance} must be a finite number, such as 2")
        if self.all and self.only:
            raise ValueError(f"--all runs every method and only={list(self.only)} a few; give one")
        if unknown := sorted(set(self.only) - set(KEYS)):
            raise ValueError(f"only={unknown} names no method; choose from {list(KEYS)}")

    @property
    def keys(self) -> tuple[str, ...]:
        """Methods to run beside dense, in the order in which they run."""
        return KEYS if self.all else tuple(k for k in KEYS if k in (self.only or SHOWN))


def faster_dtype() -> str:
    """The dtype in which this machine multiplies faster, bfloat16 only if by a quarter.

    On a CPU in time of its own: what else runs there must not decide how the clips look.
    """
    clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
    best = {}
    for name in ("float32", "bfloat16"):
        x = jnp.ones((1024, 1024), name)
        product = jax.jit(lambda x: jnp.dot(x, x, preferred_element_type=jnp.float32))
        product(x).block_until_ready()
        runs = []
        for _ in range(5):
            began = clock()
            product(x).block_until_ready()
            runs.append(clock() - began)
        best[name] = min(runs)
    return "bfloat16" if best["bfloat16"] < 0.75 * best["float32"] else "float32"


class Runner:
    """Runs methods on one noise; the dense run, which comes first, leaves what the others start from.

    Attributes:
      grid: of the token sequence.
      labels: int [B], of the rows of a step: the digit and, under guidance, no condition.
      probe_step: index of the step at which methods are measured and timed.
      kept: video before some of the dense run's steps, by index.
      states: of each method's layers before the probed step, by key; () of dense.
      stopped: no run takes another step.
    """

    def __init__(self, config: Config, model: TinyVideoDiT):
        self.config, self.model = config, model
        shape = (1, *config.video, model.config.channels)
        self.grid = model.grid(shape)
        self.labels = [config.digit] + [model.config.num_classes] * (config.guidance != 1)
        start = warm_up_steps(config.steps)
        self.probe_step = start + int(PROBE * (config.steps - start))
        self.times = sampling_times(config.steps, SHIFT)
        # AdaSpa's first search is the last of the exact steps, so it forks one step earlier.
        self.wanted = {start - 1, start, self.probe_step}
        self.kept = {0: jax.random.normal(jax.random.key(config.seed), shape)}
        self.states: dict[str, tuple[Any, ...]] = {}
        self.stopped = False

    def run(self, method: Method, advance: Callable[[str], None]) -> np.ndarray:
        """Denoises with `method`: the clip, float32 [F, Y, X, C] in [-1, 1]; `advance` is told of each step."""
        attention = method.attention
        first = 0 if attention is None else attention.schedule.dense_steps

        def on_step(step, phase, x, states):
            x.block_until_ready()
            if self.stopped:
                raise CancelledError(f"{method.key} was stopped at step {step}")
            if attention is None and step + 1 in self.wanted:
                self.kept[step + 1] = jnp.array(x)
            if step + 1 == self.probe_step:
                self.states[method.key] = jax.tree.map(jnp.array, states)
            advance(f"{method.label}, {phase.value if phase else 'exact'}")

        clip = generate(
            self.model,
            self.kept[first],
            [self.config.digit],
            num_steps=self.config.steps,
            attention=attention,
            guidance=self.config.guidance,
            unconditional=self.model.config.num_classes,
            shift=SHIFT,
            start=first,
            on_step=on_step,
        )
        return np.clip(np.asarray(clip)[0], -1, 1)

    def time_step(self, method: Method, phase: Phase = Phase.REUSE) -> float:
        """Milliseconds of the probed step of a method that has run, as a step of this phase; dense has none."""
        step, attention = self.probe_step, method.attention
        ctx = None if attention is None else StepContext(self.grid, phase, step=jnp.int32(step))
        given = (self.kept[step], self.states[method.key])
        x, states = jax.block_until_ready(jax.tree.map(jnp.array, given))  # the step consumes them
        began = time.perf_counter()
        done = denoise_step(
            self.model,
            x,
            np.asarray(self.labels, np.int32),
            self.times[step],
            self.times[step + 1],
            states,
            ctx,
            attention=attention,
            guidance=self.config.guidance,
        )
        jax.block_until_ready(done)
        return 1e3 * (time.perf_counter() - began)
