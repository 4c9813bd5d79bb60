"""Runs of the Tiny model, several digits at once."""

import functools
from collections.abc import Callable, Sequence

import jax

from models.pipelines import Denoiser, Progress, Tiny
from models.tiny import TinyConfig, TinyVideoDiT
from sparsevdit_jax import Phase, SparseAttention

SHIFT = 4.0
"""Flow shift of the sampler on the largest latent grid; training used 3 there."""

OnStep = Callable[[Phase, Progress], None]


@functools.lru_cache(
    maxsize=2
)  # so that runs of one setting share compiled steps; a run of 4 programs holds 500 MB
def denoiser(
    sizes: TinyConfig,
    shape: tuple[int, ...],
    *,
    steps: int,
    shift: float,
    attention: SparseAttention | None,
) -> Denoiser:
    """The denoise loop of one setting; `shape` is that of the videos [B, F, Y, X, C]."""
    return Denoiser(Tiny(sizes, shift), shape, num_steps=steps, attention=attention)


def denoise(
    model: TinyVideoDiT,
    x: jax.Array,
    digits: Sequence[int],
    *,
    steps: int,
    guidance: float,
    shift: float = SHIFT,
    attention: SparseAttention | None = None,
    start: int = 0,
    on_step: OnStep | None = None,
) -> jax.Array:
    """Videos float32 [B, F, Y, X, C].

    Args:
      model: that denoises.
      x: the videos before step `start`; noise before step 0.
      digits: class of each.
      steps: of the run; a schedule in `attention` must be for as many.
      guidance: scale of classifier-free guidance; 1 is none.
      shift: flow shift of the time grid.
      attention: None is dense.
      start: first step to run; runs that share their dense warm-up fork from it.
      on_step: as in `Denoiser.run`.
    """
    loop = denoiser(model.config, x.shape, steps=steps, shift=shift, attention=attention)
    conditions = loop.family.conditions(digits, guidance)
    return loop.run(model, conditions, loop.start(x, conditions, start), on_step)
