"""Euler steps along the velocity of flow matching: HunyuanVideo's scheduler, and Wan's simplest."""

import dataclasses
from typing import ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np

from models.config import require
from models.flow_matching import add_noise, shift_time
from models.schedulers.scheduler import (
    Scheduler,
    check_levels,
    check_shift,
    check_sigmas,
    check_step,
    check_steps,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlowMatchEulerDiscreteConfig:
    """Fields and defaults of diffusers' FlowMatchEulerDiscreteScheduler.

    `base_shift`, `max_shift`, `base_image_seq_len`, `max_image_seq_len` and `time_shift_type` belong to dynamic
    shifting, which none of our models uses, and have no effect.
    """

    num_train_timesteps: int = 1000
    shift: float = 1.0
    use_dynamic_shifting: bool = False
    base_shift: float | None = 0.5
    max_shift: float | None = 1.15
    base_image_seq_len: int = 256
    max_image_seq_len: int = 4096
    invert_sigmas: bool = False
    shift_terminal: float | None = None
    use_karras_sigmas: bool = False
    use_exponential_sigmas: bool = False
    use_beta_sigmas: bool = False
    time_shift_type: str = "exponential"
    stochastic_sampling: bool = False

    def __post_init__(self):
        require(
            self,
            use_dynamic_shifting=(False,),
            invert_sigmas=(False,),
            shift_terminal=(None,),
            use_karras_sigmas=(False,),
            use_exponential_sigmas=(False,),
            use_beta_sigmas=(False,),
            stochastic_sampling=(False,),
        )
        check_shift("shift", self.shift)


class FlowMatchEulerTables(NamedTuple):
    """Noise levels of a run."""

    timesteps: np.ndarray  # float32 [n], sigma times num_train_timesteps
    sigmas: np.ndarray  # float32 [n + 1], falling; 0 at the end


@dataclasses.dataclass(frozen=True)
class FlowMatchEulerDiscreteScheduler(Scheduler):
    """x += (sigma_next - sigma) v for a model that predicts the velocity v = noise - x_0.

    Reference: diffusers FlowMatchEulerDiscreteScheduler (0.42), timesteps and sigmas to the bit. With a shift s
    and without `sigmas`, its last sigma is shifted twice: the smallest training sigma is taken after the shift and
    goes through it again (s = 3, 6 steps: 0.0089 instead of 0.0030). HunyuanVideo's pipeline avoids this with
    ``sigmas=numpy.linspace(1, 0, n + 1)[:-1]``.
    """

    config: FlowMatchEulerDiscreteConfig = FlowMatchEulerDiscreteConfig()

    CLASS_NAME: ClassVar[str] = "FlowMatchEulerDiscreteScheduler"
    config_class: ClassVar[type] = FlowMatchEulerDiscreteConfig

    def set_timesteps(self, num_steps: int, sigmas=None, *, start: int = 0) -> FlowMatchEulerTables:
        """See `Scheduler.set_timesteps`; `start` has no effect: the solver has no memory."""
        train = self.config.num_train_timesteps
        num_steps, start = check_steps(num_steps, start, train)
        if sigmas is None:
            # In float64 from the float32 ends, rounded once shifted; given sigmas are rounded first.
            first, last = (float(sigma) for sigma in self.training_tables().sigmas[[0, -2]])
            sigmas = np.linspace(first * train, last * train, num_steps) / train
        else:
            sigmas = check_sigmas(sigmas, num_steps).astype(np.float32)
        tables = self._tables(sigmas)
        check_levels(np.asarray(tables.sigmas), self.config.shift)
        return tables

    def training_tables(self) -> FlowMatchEulerTables:
        """Noise levels of training, for `scale_noise`: num_train_timesteps of them, noisiest first."""
        train = self.config.num_train_timesteps
        return self._tables(np.arange(train, 0, -1, dtype=np.float32) / np.float32(train))

    def _tables(self, sigmas: np.ndarray) -> FlowMatchEulerTables:
        sigmas = shift_time(sigmas, self.config.shift).astype(np.float32)
        timesteps = sigmas * np.float32(self.config.num_train_timesteps)
        return FlowMatchEulerTables(timesteps, np.append(sigmas, np.float32(0)))

    def init(self, x) -> tuple[()]:
        """No state."""
        del x
        return ()

    def step(self, model_output, i, x, state, tables: FlowMatchEulerTables, noise=None):
        """See `Scheduler.step`; `noise` is not looked at."""
        del noise
        velocity, sample = check_step(model_output, i, x, tables)
        sigmas = jnp.asarray(tables.sigmas)
        sample = sample + (sigmas[i + 1] - sigmas[i]) * velocity
        return sample.astype(x.dtype), state

    def scale_noise(self, x0, noise, i, tables: FlowMatchEulerTables):
        """See `Scheduler.scale_noise`: (1 - sigma) x_0 + sigma noise."""
        sigma = jnp.asarray(tables.sigmas)[i]
        return add_noise(x0.astype(jnp.float32), noise.astype(jnp.float32), sigma).astype(x0.dtype)
