import dataclasses

import numpy as np
import pytest

from models.schedulers import CogVideoXSchedulerConfig
from models.schedulers.cogvideox import levels
from tests import tolerances
from tests.models.schedulers import recorded

CONFIG = recorded.load("ddim_cog5b").config


@pytest.mark.parametrize("name", ["ddim_cog2b", "ddim_cog5b", "dpm_cog5b"])
def test_alphas_equal_diffusers_to_the_last_bit_of_one(name):
    # torch's linspace fuses multiply and add, so 25 of 1,000 values are one unit of 1.0 (2.2e-16) off; near the
    # end, where roots of nearly the same size are subtracted, that is up to 32 units of the value.
    got, want = recorded.load(name).config.alphas_cumprod(), recorded.arrays(name)["alphas_cumprod"]
    assert got.dtype == want.dtype == np.float64
    tolerances.assert_within(got, want, 4 * np.finfo(np.float64).eps, "alphas")
    assert (got != want).sum() < 50
    assert got[-1] == want[-1] == 0


def test_steps_aim_at_where_diffusers_aims_and_not_at_the_next_timestep():
    alphas = CONFIG.alphas_cumprod()
    run = levels(CONFIG, 6, None, 0)
    np.testing.assert_array_equal(run.timesteps, [999, 832, 666, 499, 332, 166])
    np.testing.assert_array_equal(run.next_alphas, alphas[[833, 666, 500, 333, 166, 0]])
    assert not run.ends_clean.any()
    run = levels(CONFIG, 50, None, 0)
    np.testing.assert_array_equal(run.next_alphas, [*alphas[run.timesteps[1:]], 1.0])
    np.testing.assert_array_equal(run.ends_clean, [False] * 49 + [True])


@pytest.mark.parametrize("num_steps", [1, 61, 103, 1000])
def test_there_are_as_many_timesteps_as_steps(num_steps):
    timesteps = levels(CONFIG, num_steps, None, 0).timesteps
    assert len(timesteps) == num_steps
    assert timesteps[0] == 999
    assert timesteps[-1] >= 0


def test_spacings():
    def timesteps(spacing):
        config = dataclasses.replace(CONFIG, timestep_spacing=spacing)
        return levels(config, 4, None, 0).timesteps.tolist()

    assert timesteps("trailing") == [999, 749, 499, 249]
    assert timesteps("leading") == [750, 500, 250, 0]
    assert timesteps("linspace") == [999, 666, 333, 0]


def test_the_last_level_may_be_that_of_the_first_timestep():
    config = dataclasses.replace(CONFIG, set_alpha_to_one=False)
    assert levels(config, 50, None, 0).next_alphas[-1] == config.alphas_cumprod()[0]


def test_what_is_not_implemented_is_refused():
    for field, value in {
        "beta_schedule": "linear",
        "trained_betas": (0.1,),
        "steps_offset": 1,
        "prediction_type": "epsilon",
        "timestep_spacing": "karras",
    }.items():
        with pytest.raises(ValueError, match=f"{field}=.* is not implemented; it must be"):
            dataclasses.replace(CONFIG, **{field: value})
    with pytest.raises(ValueError, match="prediction_type='epsilon' is not implemented"):
        CogVideoXSchedulerConfig()
    with pytest.raises(ValueError, match="snr_shift_scale=0 must be above 0"):
        dataclasses.replace(CONFIG, snr_shift_scale=0)
    with pytest.raises(ValueError, match=r"num_steps=1001 must lie in 1\.\.1000"):
        levels(CONFIG, 1001, None, 0)
    with pytest.raises(ValueError, match="have no sigmas to choose; leave out `sigmas`"):
        levels(CONFIG, 2, [1.0, 0.5], 0)
