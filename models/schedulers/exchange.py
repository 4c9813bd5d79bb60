"""Replaces the scheduler of a model by another."""

from models.schedulers.cogvideox_ddim import CogVideoXDDIMScheduler
from models.schedulers.cogvideox_dpm import CogVideoXDPMScheduler
from models.schedulers.flow_euler import (
    FlowMatchEulerDiscreteConfig,
    FlowMatchEulerDiscreteScheduler,
)
from models.schedulers.scheduler import Scheduler
from models.schedulers.unipc import UniPCMultistepConfig, UniPCMultistepScheduler

_SAME_PATH: tuple[dict[str, type[Scheduler]], ...] = (
    {"euler": FlowMatchEulerDiscreteScheduler, "unipc": UniPCMultistepScheduler},
    {"ddim": CogVideoXDDIMScheduler, "dpm": CogVideoXDPMScheduler},
)
"""Short names of schedulers whose models predict the same thing along the same path of noise."""


def exchange_scheduler(scheduler: Scheduler, name: str) -> Scheduler:
    """The scheduler called `name` with the noise levels (training steps, shift, betas) of `scheduler`.

    Settings that only the other one has are its defaults, as in diffusers' `from_config`.

    Args:
      scheduler: the model's own.
      name: diffusers' class, or euler, unipc, ddim or dpm.

    Raises:
      ValueError: no such scheduler for this model.
    """
    fitting = next(kinds for kinds in _SAME_PATH if type(scheduler) in kinds.values())
    chosen = [cls for short, cls in fitting.items() if name in (short, cls.CLASS_NAME)]
    if not chosen:
        known = ", ".join(f"{short} ({cls.CLASS_NAME})" for short, cls in fitting.items())
        raise ValueError(
            f"scheduler={name!r} must be one of {known}: others follow another path than this model was trained for"
        )
    if chosen[0] is type(scheduler):
        return scheduler
    old = scheduler.config
    if chosen[0] is UniPCMultistepScheduler:
        config = UniPCMultistepConfig(
            num_train_timesteps=old.num_train_timesteps,
            flow_shift=old.shift,
            use_flow_sigmas=True,
            prediction_type="flow_prediction",
        )
    elif chosen[0] is FlowMatchEulerDiscreteScheduler:
        config = FlowMatchEulerDiscreteConfig(
            num_train_timesteps=old.num_train_timesteps, shift=old.flow_shift
        )
    else:
        config = old  # CogVideoX's have one configuration
    return chosen[0](config)
