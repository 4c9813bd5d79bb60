"""The interface between the denoise loop and a family of video models. Read this first."""

import abc
from typing import Any

import jax
import jax.numpy as jnp

from models.schedulers import Scheduler
from sparsevdit_jax import VideoGrid

from .conditions import Conditions


def guide(conditional: jax.Array, unconditional: jax.Array, guidance) -> jax.Array:
    """Classifier-free guidance: unconditional + guidance (conditional - unconditional)."""
    return unconditional + guidance * (conditional - unconditional)


class Family(abc.ABC):
    """How a transformer is called in every step, and what becomes of its prediction.

    Args:
      transformer: its configuration.
      scheduler: that fits what it predicts.
    """

    def __init__(self, transformer: Any, scheduler: Scheduler):
        self.transformer, self.scheduler = transformer, scheduler

    @abc.abstractmethod
    def guided(self, guidance: float) -> bool:
        """Whether classifier-free guidance is on, and so every video has a second row, without its condition.

        Raises:
          ValueError: not such a scale.
        """

    def grid(self, shape: tuple[int, ...], text_len: int | None = None) -> VideoGrid:
        """The token sequence of attention to what is denoised; see `models.transformer.Transformer.grid`."""
        return self.transformer.grid(shape, text_len)

    def set_timesteps(self, num_steps: int) -> Any:
        """Tables of the scheduler."""
        return self.scheduler.set_timesteps(num_steps)

    def transformer_input(self, model: Any, x: jax.Array, conditions: Conditions) -> jax.Array:
        """What the transformer is given of x, one row for each video."""
        del model, conditions
        return x

    def predict(self, model, x, timestep, conditions: Conditions, attention, states, ctx):
        """The guided prediction in float32, and the layers' new states.

        Args:
          model: the transformer.
          x: noisy videos or latents [B, ...].
          timestep: scalar.
          conditions: see there.
          attention: `SparseAttention` with `states`; None is dense.
          ctx: the step's `StepContext`.
        """
        hidden = self.transformer_input(model, x, conditions)
        hidden = jnp.concatenate([hidden] * (conditions.rows // x.shape[0]))
        inputs: dict[str, Any] = dict(conditions.inputs)
        if conditions.rotary is not None:
            inputs["image_rotary_emb"] = conditions.rotary
        out = model(
            hidden_states=hidden,
            timestep=jnp.broadcast_to(timestep, (conditions.rows,)),
            attention=attention,
            states=states,
            ctx=ctx,
            **inputs,
        )
        sample = out.sample.astype(jnp.float32)
        if conditions.guidance is not None:  # a half with the condition, a half without
            sample = guide(*jnp.split(sample, 2), conditions.guidance)
        return sample, out.states
