"""Euler steps of flow matching for a model that predicts the clean video: the Tiny model's scheduler."""

import dataclasses
from typing import ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np

from models.flow_matching import add_noise, shift_time, velocity
from models.schedulers.scheduler import Scheduler, check_sigmas, check_step, check_steps

_MOST_STEPS = 1000
"""Times are continuous here; the model embeds them in thousandths, as DDPM's."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CleanEulerConfig:
    """The flow shift of the time grid (`shift_time`)."""

    shift: float = 1.0

    def __post_init__(self):
        if not self.shift > 0:
            raise ValueError(f"shift={self.shift} must be above 0; 1 means no shift")


class CleanEulerTables(NamedTuple):
    """Times of a run."""

    timesteps: np.ndarray  # float32 [n], what the model is told: from 1 (noise) towards 0 (video)
    sigmas: np.ndarray  # float32 [n + 1], the same and a 0 at the end


@dataclasses.dataclass(frozen=True)
class CleanEulerScheduler(Scheduler):
    """x += (t_next - t) v with the velocity v = (x - x_0) / t of the predicted video x_0.

    Times as in `models.flow_matching`. diffusers has no such scheduler, so no configuration of it is read or written.
    """

    config: CleanEulerConfig = CleanEulerConfig()

    CLASS_NAME: ClassVar[str] = "CleanEulerScheduler"
    config_class: ClassVar[type] = CleanEulerConfig

    def set_timesteps(self, num_steps: int, sigmas=None, *, start: int = 0) -> CleanEulerTables:
        """See `Scheduler.set_timesteps`; `start` has no effect: the solver has no memory."""
        num_steps, _ = check_steps(num_steps, start, _MOST_STEPS)
        if sigmas is None:
            sigmas = np.linspace(1, 0, num_steps + 1)[:-1]
        sigmas = shift_time(check_sigmas(sigmas, num_steps), self.config.shift).astype(np.float32)
        return CleanEulerTables(sigmas, np.append(sigmas, np.float32(0)))

    def init(self, x) -> tuple[()]:
        """No state."""
        del x
        return ()

    def step(self, model_output, i, x, state, tables: CleanEulerTables, noise=None):
        """See `Scheduler.step`; `noise` is not looked at."""
        del noise
        clean, sample = check_step(model_output, i, x, tables)
        sigmas = jnp.asarray(tables.sigmas)
        sample = sample + (sigmas[i + 1] - sigmas[i]) * velocity(sample, clean, sigmas[i])
        return sample.astype(x.dtype), state

    def scale_noise(self, x0, noise, i, tables: CleanEulerTables):
        """See `Scheduler.scale_noise`: (1 - t) x_0 + t noise."""
        time = jnp.asarray(tables.sigmas)[i]
        return add_noise(x0.astype(jnp.float32), noise.astype(jnp.float32), time).astype(x0.dtype)
