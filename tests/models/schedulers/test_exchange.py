"""One scheduler in place of another."""

import numpy as np
import pytest

from models.schedulers import (
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    CogVideoXSchedulerConfig,
    FlowMatchEulerDiscreteConfig,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepConfig,
    UniPCMultistepScheduler,
    exchange_scheduler,
)

EULER = FlowMatchEulerDiscreteScheduler(FlowMatchEulerDiscreteConfig(shift=7.0))
UNIPC = UniPCMultistepScheduler(
    UniPCMultistepConfig(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
)
NOISE = CogVideoXSchedulerConfig(prediction_type="v_prediction", snr_shift_scale=1.0)


def test_flow_schedulers_keep_the_shift():
    unipc = exchange_scheduler(EULER, "unipc")
    assert type(unipc) is UniPCMultistepScheduler
    assert unipc.config.flow_shift == 7.0
    assert exchange_scheduler(UNIPC, "FlowMatchEulerDiscreteScheduler").config.shift == 3.0
    sigmas = np.linspace(1, 0, 9)[:-1]
    levels = [s.set_timesteps(8, sigmas).sigmas for s in (EULER, unipc)]
    # UniPC begins 1e-6 below 1, as in diffusers.
    np.testing.assert_allclose(*levels, rtol=0, atol=2.5e-6)


def test_cogvideoxs_keep_their_configuration():
    dpm = exchange_scheduler(CogVideoXDDIMScheduler(NOISE), "dpm")
    assert dpm == CogVideoXDPMScheduler(NOISE)
    assert exchange_scheduler(dpm, "CogVideoXDDIMScheduler") == CogVideoXDDIMScheduler(NOISE)


def test_its_own_name_changes_nothing():
    assert exchange_scheduler(UNIPC, "unipc") is UNIPC


@pytest.mark.parametrize(("scheduler", "name"), [(UNIPC, "dpm"), (EULER, "heun"), (UNIPC, "")])
def test_schedulers_of_another_path_are_refused(scheduler, name):
    with pytest.raises(ValueError, match=rf"scheduler='{name}' must be one of euler \(FlowMatch"):
        exchange_scheduler(scheduler, name)
