"""CogVideoX's DPM-Solver++ of the stochastic differential equation, second order (CogVideoX-5b)."""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from models.schedulers.cogvideox import CogVideoXSchedulerConfig, levels, noised, predict_clean
from models.schedulers.scheduler import Scheduler, check_step, row


class CogVideoXDPMTables(NamedTuple):
    """Weights of x_next = on_x x + on_x0 (on_new x_0 - on_old x_0 of the step before) + on_noise noise."""

    timesteps: np.ndarray  # int32 [n]
    alphas: np.ndarray  # float32 [n], cumulative, at each step
    root_alpha: np.ndarray  # float32 [n], sqrt(a)
    root_noise: np.ndarray  # float32 [n], sqrt(1 - a)
    on_x: np.ndarray  # float32 [n]
    on_x0: np.ndarray  # float32 [n]
    on_new: np.ndarray  # float32 [n]; 1 where the step is of first order
    on_old: np.ndarray  # float32 [n]; 0 where the step is of first order
    on_noise: np.ndarray  # float32 [n]


@dataclasses.dataclass(frozen=True)
class CogVideoXDPMScheduler(Scheduler):
    """SDE-DPM-Solver++(2M) for a model that predicts v; the state is x_0 of the step before, float32.

    The first step is of first order, as is the last where it goes beyond the last timestep.

    Reference: DPM-Solver++ (arXiv 2211.01095), as in diffusers' CogVideoXDPMScheduler (0.42). That one draws
    noise for a first-order result in every step and, where the step is of second order, draws again for the
    result that it returns; the first draw is lost. We draw once a step. To follow a recorded run of diffusers, give
    each step its last draw: the second, or the only one where the step is of first order.
    """

    config: CogVideoXSchedulerConfig

    CLASS_NAME: ClassVar[str] = "CogVideoXDPMScheduler"
    config_class: ClassVar[type] = CogVideoXSchedulerConfig
    draws_noise: ClassVar[bool] = True

    def set_timesteps(self, num_steps: int, sigmas=None, *, start: int = 0) -> CogVideoXDPMTables:
        """See `Scheduler.set_timesteps`."""
        timesteps, alphas, next_alphas, ends_clean = levels(self.config, num_steps, sigmas, start)
        with np.errstate(
            divide="ignore"
        ):  # a = 0 and a = 1 are infinitely far away: exp makes them 0
            half_log_snr = np.log(np.sqrt(alphas / (1 - alphas)))
            h = np.log(np.sqrt(next_alphas / (1 - next_alphas))) - half_log_snr
        second_order = (np.arange(num_steps) > start) & ~ends_clean
        steps = np.flatnonzero(second_order)
        # 1 / (2 r) of the paper's r = h_last / h; 0 after a level of pure noise, where h_last is infinite.
        half_ratio = np.zeros(num_steps)
        half_ratio[steps] = h[steps] / (2 * (half_log_snr[steps] - half_log_snr[steps - 1]))
        on_x = np.sqrt((1 - next_alphas) / (1 - alphas)) * np.exp(-h)
        weights = (
            alphas,
            np.sqrt(alphas),
            np.sqrt(1 - alphas),
            on_x,
            -np.expm1(-2 * h) * np.sqrt(next_alphas),
            1 + half_ratio,
            half_ratio,
            np.sqrt(1 - next_alphas) * np.sqrt(1 - np.exp(-2 * h)),
        )
        return CogVideoXDPMTables(timesteps, *(w.astype(np.float32) for w in weights))

    def init(self, x: jax.Array) -> jax.Array:
        """Float32 zeros of x's shape."""
        return jnp.zeros(x.shape, jnp.float32)

    def step(self, model_output, i, x, state: jax.Array, tables: CogVideoXDPMTables, noise=None):
        """See `Scheduler.step`.

        Args:
          noise: standard normal numbers of x's shape, or a key (`jax.random.key`) to draw them with, the same key
            for all steps: the step's index is folded in.
        """
        v, sample = check_step(model_output, i, x, tables)
        noise = _normal(noise, i, x)
        now = row(tables, i)
        x0 = predict_clean(v, sample, now.root_alpha, now.root_noise)
        ahead = now.on_new * x0 - now.on_old * state
        sample = now.on_x * sample + now.on_x0 * ahead + now.on_noise * noise
        return sample.astype(x.dtype), x0

    def scale_noise(self, x0, noise, i, tables: CogVideoXDPMTables):
        """See `Scheduler.scale_noise`: sqrt(a) x_0 + sqrt(1 - a) noise."""
        return noised(x0, noise, jnp.asarray(tables.alphas)[i])


def _normal(noise, i, x: jax.Array) -> jax.Array:
    """Float32 numbers of x's shape, given or drawn."""
    if noise is None:
        raise ValueError(
            "CogVideoXDPMScheduler adds noise in every step; pass noise=jax.random.key(seed), or an array like x"
        )
    if jax.dtypes.issubdtype(noise.dtype, jax.dtypes.prng_key):
        return jax.random.normal(jax.random.fold_in(noise, i), x.shape, jnp.float32)
    if noise.shape != x.shape or not jnp.issubdtype(noise.dtype, jnp.floating):
        raise ValueError(
            f"noise {noise.dtype}{noise.shape} must be floats of x's shape, {x.shape}, or a key of jax.random.key "
            "(not PRNGKey)"
        )
    return noise.astype(jnp.float32)
