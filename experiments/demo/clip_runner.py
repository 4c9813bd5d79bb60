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

from experiments.demo.compared_methods import KEYS, SHOWN, Method, warm_up_steps
from experiments.tiny_runs import SHIFT
from models.pipelines import Denoiser, Progress, Tiny
from models.tiny import TinyVideoDiT
from sparsevdit_jax import Phase

WEIGHTS = Path(__file__).parents[1] / "checkpoints" / "tiny_digits.safetensors"
VIDEO = (32, 64, 64)
"""Frames, rows and columns of the clip: 16 x 16 x 16 tokens."""

STEPS, STEPS_OF_ALL = 8, 30
"""Denoising steps by default, and with --all."""

PROBE = 0.5
"""Where in the sparse part of a run attention is measured."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Flags of the demo.

    Attributes:
      digit: the digit to draw, 0 to 9.
      seed: seed of the noise.
      steps: denoising steps; 8 by default, 30 with --all.
      guidance: scale of classifier-free guidance.
      out: folder to write. It must be new or empty, or an earlier demo's, which is replaced at the end.
      weights: checkpoint of a TinyVideoDiT.
      dtype: dtype of matmuls; "auto" takes bfloat16 where the processor multiplies it faster.
      all: run every method and setting, not only the usual ones.
      only: keys of the methods to run beside dense, in place of the usual ones.
      video: frames, rows and columns in pixels; the checkpoint was trained for the default.
      record: also append the rows to experiments/results/demo.jsonl, from which the table of the demo's page is made.
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
      conditions: of the digit and, under guidance, of no digit.
      probe_step: index of the step at which methods are measured and timed.
      kept: video before some of the dense run's steps, by index.
      states: of each method's layers before the probed step, by key; () of dense.
      stopped: no run takes another step.
    """

    def __init__(self, config: Config, model: TinyVideoDiT):
        self.config, self.model = config, model
        self.shape = (1, *config.video, model.config.channels)
        self.grid = model.grid(self.shape)
        self.family = Tiny(model.config, SHIFT)
        self.conditions = self.family.conditions([config.digit], config.guidance)
        start = warm_up_steps(config.steps)
        self.probe_step = start + int(PROBE * (config.steps - start))
        # AdaSpa's first search is the last of the dense steps, so it forks one step earlier.
        self.wanted = {start - 1, start, self.probe_step}
        self.kept = {0: jax.random.normal(jax.random.key(config.seed), self.shape)}
        self.states: dict[str, tuple[Any, ...]] = {}
        self.stopped = False
        self._loops: dict[str, Denoiser] = {}

    @property
    def probe_time(self) -> float:
        """Time of the probed step, from 1 (noise) to 0."""
        return float(self.family.set_timesteps(self.config.steps).timesteps[self.probe_step])

    def _loop(self, method: Method) -> Denoiser:
        if method.key not in self._loops:
            setting = dict(num_steps=self.config.steps, attention=method.attention)
            self._loops[method.key] = Denoiser(self.family, self.shape, **setting)
        return self._loops[method.key]

    def run(self, method: Method, advance: Callable[[str], None]) -> np.ndarray:
        """Denoises with `method`: the clip, float32 [F, Y, X, C] in [-1, 1]; `advance` is told of each step."""
        loop, is_dense = self._loop(method), method.attention is None
        first = 0 if is_dense else method.attention.schedule.dense_steps

        def on_step(phase, now):
            now.x.block_until_ready()
            if self.stopped:
                raise CancelledError(f"{method.key} was stopped after {now.step} steps")
            if is_dense and now.step in self.wanted:
                self.kept[now.step] = jnp.array(now.x)
            if now.step == self.probe_step:
                self.states[method.key] = jax.tree.map(jnp.array, now.states)
            advance(f"{method.label}, {'dense' if is_dense else phase.value}")

        begin = loop.start(self.kept[first], self.conditions, first)
        clip = loop.run(self.model, self.conditions, begin, on_step)
        return np.clip(np.asarray(clip)[0], -1, 1)

    def time_step(self, method: Method, phase: Phase = Phase.REUSE) -> float:
        """Milliseconds of the probed step of a method that has run, as a step of this phase; dense has none."""
        loop = self._loop(method)
        phase = Phase.DENSE if method.attention is None else phase
        given = (self.kept[self.probe_step], (), self.states[method.key])
        given = jax.block_until_ready(jax.tree.map(jnp.array, given))  # the step consumes them
        began = time.perf_counter()
        after = loop.step(
            self.model, self.conditions, Progress(self.probe_step, *given), phase=phase
        )
        jax.block_until_ready((after.x, after.states))
        return 1e3 * (time.perf_counter() - began)
