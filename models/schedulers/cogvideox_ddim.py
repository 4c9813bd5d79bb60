"""CogVideoX's DDIM: deterministic, one prediction a step (CogVideoX-2b)."""

import dataclasses
from typing import ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np

from models.schedulers.cogvideox import CogVideoXSchedulerConfig, levels, noised, predict_clean
from models.schedulers.scheduler import Scheduler, check_step, row


class CogVideoXDDIMTables(NamedTuple):
    """Weights of x_next = on_x x + on_x0 x_0; a row a step."""

    timesteps: np.ndarray  # int32 [n]
    alphas: np.ndarray  # float32 [n], cumulative, at each step
    root_alpha: np.ndarray  # float32 [n], sqrt(a)
    root_noise: np.ndarray  # float32 [n], sqrt(1 - a)
    on_x: np.ndarray  # float32 [n]
    on_x0: np.ndarray  # float32 [n]


@dataclasses.dataclass(frozen=True)
class CogVideoXDDIMScheduler(Scheduler):
    """DDIM with eta = 0 for a model that predicts v; the noise levels are shifted as `config` says.

    Reference: DDIM (arXiv 2010.02502), equation 12, as in diffusers' CogVideoXDDIMScheduler (0.42). Weights are
    computed in float64 and rounded once, as diffusers does. See `levels` for the oddity of its step lengths.
    """

    config: CogVideoXSchedulerConfig

    CLASS_NAME: ClassVar[str] = "CogVideoXDDIMScheduler"
    config_class: ClassVar[type] = CogVideoXSchedulerConfig

    def set_timesteps(self, num_steps: int, sigmas=None, *, start: int = 0) -> CogVideoXDDIMTables:
        """See `Scheduler.set_timesteps`; `start` has no effect: the solver has no memory."""
        timesteps, alphas, next_alphas, _ = levels(self.config, num_steps, sigmas, start)
        on_x = np.sqrt((1 - next_alphas) / (1 - alphas))
        on_x0 = np.sqrt(next_alphas) - np.sqrt(alphas) * on_x
        weights = (alphas, np.sqrt(alphas), np.sqrt(1 - alphas), on_x, on_x0)
        return CogVideoXDDIMTables(timesteps, *(w.astype(np.float32) for w in weights))

    def init(self, x) -> tuple[()]:
        """No state."""
        del x
        return ()

    def step(self, model_output, i, x, state, tables: CogVideoXDDIMTables, noise=None):
        """See `Scheduler.step`; `noise` is not looked at."""
        del noise
        v, sample = check_step(model_output, i, x, tables)
        now = row(tables, i)
        x0 = predict_clean(v, sample, now.root_alpha, now.root_noise)
        return (now.on_x * sample + now.on_x0 * x0).astype(x.dtype), state

    def scale_noise(self, x0, noise, i, tables: CogVideoXDDIMTables):
        """See `Scheduler.scale_noise`: sqrt(a) x_0 + sqrt(1 - a) noise."""
        return noised(x0, noise, jnp.asarray(tables.alphas)[i])
