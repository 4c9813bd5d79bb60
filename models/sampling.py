"""An Euler sampler with classifier-free guidance for models that predict clean videos (the Tiny model).

Times as in `models.flow_matching`, from 1 (noise) to 0 (video). Checkpoints of others come with a scheduler of
their own: `models.schedulers`.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from models.flow_matching import shift_time, velocity
from sparsevdit_jax import Phase, StepContext


def sampling_times(num_steps: int, shift: float) -> np.ndarray:
    """float32 [num_steps + 1], from 1 to 0."""
    return shift_time(np.linspace(1, 0, num_steps + 1), shift).astype(np.float32)


def guide(conditional: jax.Array, unconditional: jax.Array, guidance) -> jax.Array:
    """Classifier-free guidance: unconditional + guidance (conditional - unconditional)."""
    return unconditional + guidance * (conditional - unconditional)


@functools.partial(
    jax.jit, static_argnames=("attention", "guidance"), donate_argnames=("x", "states")
)
def denoise_step(model, x, label, t, t_next, states, ctx, *, attention=None, guidance=1.0):
    """One Euler step from time t to t_next for a model that predicts clean videos.

    Args:
      model: called as model(x, t, label, attention=, states=, ctx=); it returns a `TransformerOutput` of x0.
      x: [B, F, Y, X, C] at time t; donated.
      label: int32 [2 B] with guidance, the second half unconditional; [B] without.
      states: of `attention.init(batch=len(label), ...)`, () for dense; donated.
      ctx: `StepContext` of this step, None for dense.
      guidance: 1 turns classifier-free guidance off and halves the batch.

    Returns:
      x at t_next and the new states.
    """
    n = x.shape[0]
    rows = label.shape[0]
    x_rows = jnp.concatenate([x] * (rows // n))
    out = model(x_rows, jnp.full((rows,), t), label, attention=attention, states=states, ctx=ctx)
    x0 = out.sample
    if guidance != 1.0:
        x0 = guide(x0[:n], x0[n:], guidance)
    return x + (t_next - t) * velocity(x, x0, jnp.full((n,), t)), out.states


def generate(
    model,
    noise: jax.Array,
    label,
    *,
    num_steps: int,
    attention=None,
    guidance: float = 1.0,
    unconditional: int | None = None,
    shift: float = 1.0,
    start: int = 0,
    on_step: Callable[[int, Phase | None, jax.Array, tuple], None] | None = None,
) -> jax.Array:
    """Denoises `noise` to video, dense or with sparse attention, one jitted program per phase.

    Args:
      model: a video DiT (see `denoise_step`) with `grid(shape)` and `config.num_heads`, `config.head_dim`.
      noise: [B, F, Y, X, C].
      label: int [B].
      num_steps: Euler steps; a schedule in `attention` must be for as many.
      attention: `SparseAttention`, or None for dense.
      guidance: scale of classifier-free guidance; rows of both branches keep their own masks and LSE.
      unconditional: the label that means "no condition"; needed with guidance.
      shift: flow shift of the time grid (`shift_time`).
      start: first step to run; `noise` is then the video before that step (runs that share their dense
        warm-up can fork from it).
      on_step: called after each step with its index, phase (None when dense), the video so far and the layers'
        states, which the next step consumes: copy what must stay.

    Returns:
      Clean videos [B, F, Y, X, C], float32.
    """
    label = np.asarray(label, np.int32)
    if label.shape != noise.shape[:1]:
        raise ValueError(
            f"{label.shape=} must be one class per video, {noise.shape[:1]}; give a list"
        )
    if not 0 <= start <= num_steps:
        raise ValueError(f"{start=} must lie in 0..{num_steps}, the steps of this run")
    if guidance != 1.0:
        if unconditional is None:
            raise ValueError(
                f"{guidance=} needs `unconditional`, the label that means no condition"
            )
        label = np.concatenate([label, np.full_like(label, unconditional)])
    states, ctx = (), None
    if attention is not None:
        if attention.schedule.num_steps != num_steps:
            raise ValueError(
                f"{num_steps=} but the schedule of `attention` is for {attention.schedule.num_steps}; "
                "make both the same"
            )
        heads = dict(num_heads=model.config.num_heads, head_dim=model.config.head_dim)
        states = attention.init(model.grid(noise.shape), batch=len(label), **heads)
    x = jnp.array(noise, jnp.float32)  # a copy: the step donates its input
    times = sampling_times(num_steps, shift)
    for step in range(start, num_steps):
        phase = None
        if attention is not None:
            phase = attention.schedule.phase(step)
            ctx = StepContext(model.grid(noise.shape), phase, step=jnp.int32(step))
        x, states = denoise_step(
            model,
            x,
            label,
            times[step],
            times[step + 1],
            states,
            ctx,
            attention=attention,
            guidance=guidance,
        )
        if on_step is not None:
            on_step(step, phase, x, states)
    return x
