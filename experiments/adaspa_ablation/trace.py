"""Records one dense run: LSE and block masses of every layer and head at every step."""

import dataclasses
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.adaspa_ablation.tiny import check_digits, kept, noise, scaled
from experiments.demo.clip_runner import VIDEO, WEIGHTS
from experiments.progress import progress_bar
from experiments.tiny_runs import denoise
from models.tiny import TinyVideoDiT
from sparsevdit_jax import (
    Attended,
    AttentionPattern,
    Phase,
    SparseAttention,
    StepSchedule,
    TokenOrder,
)
from sparsevdit_jax.ops import attend_dense, attention_mass


@dataclasses.dataclass(frozen=True, kw_only=True)
class TraceConfig:
    """Settings of the watched run; its clips are all pairs of a seed and a digit, seeds outermost.

    Attributes:
      digits: classes.
      seeds: of the noise; all clips of a seed start from the same noise.
      steps: denoising steps.
      guidance: scale of classifier-free guidance.
      search: the paper's search steps, of 50; masks are carried from the first to the second.
      density: of the masks whose stability is measured.
      block: tokens in a block.
      video: frames, rows and columns in pixels.
      weights: checkpoint of a TinyVideoDiT.
      dtype: of matmuls.
    """

    digits: tuple[int, ...] = (3, 7)
    seeds: tuple[int, ...] = (1, 2)
    steps: int = 30
    guidance: float = 2.0
    search: tuple[int, int] = (10, 30)
    density: float = 0.2
    block: int = 64
    video: tuple[int, int, int] = VIDEO
    weights: Path = WEIGHTS
    dtype: Literal["bfloat16", "float32"] = "bfloat16"

    def __post_init__(self):
        check_digits(self.digits)
        first, second = self.search_steps
        if not first < second < self.steps:
            raise ValueError(
                f"search={self.search} of 50 are steps {first} and {second} of steps={self.steps}; "
                "the second must come after the first, before the end: change them or raise steps"
            )

    @property
    def clip_digits(self) -> list[int]:
        """The class of each clip."""
        return [digit for _ in self.seeds for digit in self.digits]

    @property
    def search_steps(self) -> tuple[int, int]:
        """Loop indices, from 0, of the two searches."""
        first, second = scaled(self.search, self.steps)
        return first - 1, second - 1


class Watched(NamedTuple):
    """State of `Watch`: of the last step, except `first_lse`, that of the SEARCH step.

    `lse` and `first_lse` are f32 [B, H, L]. `mass` f32 [B, H, N, N] holds the block masses, and `stale` those that
    the same q and k give under `first_lse`, as AdaSpa's cached search sees them.
    """

    lse: jax.Array
    mass: jax.Array
    first_lse: jax.Array
    stale: jax.Array


@dataclasses.dataclass(frozen=True)
class Watch(AttentionPattern):
    """Dense attention whose state says what a search would see."""

    block: int = 64

    sees_dense_steps = True

    def init(self, grid, *, batch, num_heads, head_dim):
        """Zeros."""
        del head_dim
        blocks = TokenOrder(grid, self.block).num_blocks
        lse = jnp.zeros((batch, num_heads, grid.num_tokens), jnp.float32)
        mass = jnp.zeros((batch, num_heads, blocks, blocks), jnp.float32)
        return Watched(lse, mass, lse.copy(), mass.copy())

    def compute(self, q, k, v, state, ctx):
        """Dense attention; see `Watched`."""
        order = TokenOrder(ctx.grid, self.block)
        out, lse = attend_dense(q, k, v, ctx)
        mass = attention_mass(q, k, lse, order, ctx)
        if ctx.phase is not Phase.REUSE:
            return Attended(out, lse, Watched(lse, mass, lse.copy(), mass.copy()))
        stale = attention_mass(q, k, state.first_lse, order, ctx)
        return Attended(out, lse, Watched(lse, mass, state.first_lse, stale))


def watched_run(model: TinyVideoDiT, config: TraceConfig, out: Path) -> dict[str, np.ndarray]:
    """The dense run's arrays, from `out` if an equal run left them there.

    `lse` f32 [T, layers, B, H, L]; `mass` and `stale` f32 [T, layers, B, H, N, N]; `x`, the clips before each of the
    two search steps, f32 [2, clips, F, Y, X, C]. B holds the conditional rows of all clips, then the unconditional.
    """
    first, _ = config.search_steps
    schedule = StepSchedule(config.steps, first, (first,))
    layers = model.config.num_layers
    attention = SparseAttention.uniform(Watch(config.block), layers, schedule)

    def make():
        start = [noise(model, config.video, seed, 1) for seed in config.seeds]
        start = jnp.concatenate([x for x in start for _ in config.digits])
        found, clips = {"lse": [], "mass": [], "stale": []}, {0: np.asarray(start)}
        with progress_bar("watched dense run", total=config.steps) as advance:

            def on_step(phase, now):
                if now.step in config.search_steps:
                    clips[now.step] = np.array(now.x)
                for name, values in found.items():
                    values.append(np.stack([np.asarray(getattr(s, name)) for s in now.states]))
                advance(phase.value)

            denoise(
                model,
                start,
                config.clip_digits,
                steps=config.steps,
                guidance=config.guidance,
                attention=attention,
                on_step=on_step,
            )
        arrays = {name: np.stack(values) for name, values in found.items()}
        return dict(arrays, x=np.stack([clips[step] for step in config.search_steps]))

    return kept(out / "trace.npz", config, make)
