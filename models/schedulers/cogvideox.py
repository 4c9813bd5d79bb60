"""Shared by CogVideoX's two schedulers: configuration, noise levels, and the prediction of clean latents.

x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) noise with a falling in t = 0..999, and a model that predicts
v = sqrt(a_t) noise - sqrt(1 - a_t) x_0.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from models.config import require
from models.flow_matching import per_video
from models.schedulers.scheduler import check_steps


@dataclasses.dataclass(frozen=True, kw_only=True)
class CogVideoXSchedulerConfig:
    """Fields and defaults of diffusers' CogVideoXDDIMScheduler and CogVideoXDPMScheduler.

    The default ``prediction_type="epsilon"`` is refused: the checkpoints say "v_prediction". `clip_sample`,
    `clip_sample_range` and `sample_max_value` have no effect, in diffusers neither.
    """

    num_train_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.0120
    beta_schedule: str = "scaled_linear"
    trained_betas: tuple[float, ...] | None = None
    clip_sample: bool = True
    set_alpha_to_one: bool = True
    steps_offset: int = 0
    prediction_type: str = "epsilon"
    clip_sample_range: float = 1.0
    sample_max_value: float = 1.0
    timestep_spacing: str = "leading"
    rescale_betas_zero_snr: bool = False
    snr_shift_scale: float = 3.0

    def __post_init__(self):
        require(
            self,
            beta_schedule=("scaled_linear",),
            trained_betas=(None,),
            steps_offset=(0,),
            prediction_type=("v_prediction",),
            timestep_spacing=("trailing", "linspace", "leading"),
        )
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ValueError(
                f"beta_start={self.beta_start} and beta_end={self.beta_end} must rise between 0 and 1"
            )
        if not self.snr_shift_scale > 0:
            raise ValueError(
                f"snr_shift_scale={self.snr_shift_scale} must be above 0; 1 means no shift"
            )

    def alphas_cumprod(self) -> np.ndarray:
        """a_t, float64 [num_train_timesteps], falling; the last is 0 with `rescale_betas_zero_snr`."""
        ends = self.beta_start**0.5, self.beta_end**0.5
        betas = np.linspace(*ends, self.num_train_timesteps) ** 2
        alphas = np.cumprod(1 - betas)
        shift = self.snr_shift_scale
        alphas = alphas / (shift + (1 - shift) * alphas)
        if self.rescale_betas_zero_snr:
            # Common diffusion noise schedules are flawed (arXiv 2305.08891), algorithm 1.
            roots = np.sqrt(alphas)
            alphas = ((roots - roots[-1]) * (roots[0] / (roots[0] - roots[-1]))) ** 2
        return alphas


class Levels(NamedTuple):
    """Where a run's steps lie; float64, rounded to float32 by who makes weights of them."""

    timesteps: np.ndarray  # int32 [n]
    alphas: np.ndarray  # [n], a at each step
    next_alphas: np.ndarray  # [n], a at the level that the step aims at
    ends_clean: np.ndarray  # bool [n], whether that level lies beyond the last timestep


def levels(config: CogVideoXSchedulerConfig, num_steps: int, sigmas, start: int) -> Levels:
    """The noise levels of a run.

    As in diffusers a step from t aims at t - num_train_timesteps // num_steps, rounded down, although the
    next step begins where the spacing says, rounded to nearest: 832 after 999 in a run of 6, but 833 is what the
    first step aims at, and the last ends at 0 and not below it. Only where num_steps divides
    num_train_timesteps are they the same.

    Raises:
      ValueError: more steps than in training, or sigmas given.
    """
    train = config.num_train_timesteps
    num_steps, start = check_steps(num_steps, start, train)
    if sigmas is not None:
        raise ValueError(
            "CogVideoX schedulers have no sigmas to choose; leave out `sigmas` and set num_steps"
        )
    if config.timestep_spacing == "linspace":
        timesteps = np.linspace(0, train - 1, num_steps).round()[::-1]
    elif config.timestep_spacing == "leading":
        timesteps = np.arange(num_steps)[::-1] * (train // num_steps)
    else:
        # For 62 step counts (61, 103, ...) arange yields one entry too many, which diffusers runs at t = -1.
        timesteps = np.arange(train, 0, -train / num_steps)[:num_steps].round() - 1
    timesteps = timesteps.astype(np.int32)
    alphas = config.alphas_cumprod()
    targets = timesteps - train // num_steps
    final = 1.0 if config.set_alpha_to_one else alphas[0]
    next_alphas = np.where(targets >= 0, alphas[np.maximum(targets, 0)], final)
    return Levels(timesteps, alphas[timesteps], next_alphas, targets < 0)


def predict_clean(model_output: jax.Array, x: jax.Array, root_alpha, root_noise) -> jax.Array:
    """x_0 = sqrt(a) x - sqrt(1 - a) v."""
    return root_alpha * x - root_noise * model_output


def noised(x0: jax.Array, noise: jax.Array, alphas: jax.Array) -> jax.Array:
    """x_t of clean videos at float32 levels a, scalar or [B]; in x0's dtype."""
    alphas = per_video(alphas, x0)
    clean, noise_part = x0.astype(jnp.float32), noise.astype(jnp.float32)
    return (jnp.sqrt(alphas) * clean + jnp.sqrt(1 - alphas) * noise_part).astype(x0.dtype)
