"""Schedulers: pure functions that take a latent from noise to video (start with scheduler.py)."""

from .clean_euler import CleanEulerConfig as CleanEulerConfig
from .clean_euler import CleanEulerScheduler as CleanEulerScheduler
from .cogvideox import CogVideoXSchedulerConfig as CogVideoXSchedulerConfig
from .cogvideox_ddim import CogVideoXDDIMScheduler as CogVideoXDDIMScheduler
from .cogvideox_dpm import CogVideoXDPMScheduler as CogVideoXDPMScheduler
from .exchange import exchange_scheduler as exchange_scheduler
from .files import load_scheduler as load_scheduler
from .files import save_scheduler as save_scheduler
from .files import scheduler_from_json as scheduler_from_json
from .flow_euler import FlowMatchEulerDiscreteConfig as FlowMatchEulerDiscreteConfig
from .flow_euler import FlowMatchEulerDiscreteScheduler as FlowMatchEulerDiscreteScheduler
from .scheduler import Scheduler as Scheduler
from .unipc import UniPCMultistepConfig as UniPCMultistepConfig
from .unipc import UniPCMultistepScheduler as UniPCMultistepScheduler
