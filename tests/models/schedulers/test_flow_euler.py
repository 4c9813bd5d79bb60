import jax.numpy as jnp
import numpy as np
import pytest

from models.schedulers import FlowMatchEulerDiscreteConfig, FlowMatchEulerDiscreteScheduler
from tests.models import parity
from tests.models.schedulers import recorded

NAMES = recorded.names("FlowMatchEulerDiscreteScheduler")


@pytest.mark.parametrize("name", NAMES)
def test_timesteps_and_sigmas_equal_diffusers(name):
    recorded.assert_tables_are_recorded(name)


@pytest.mark.parametrize("name", NAMES)
def test_trajectory_equals_diffusers(name):
    recorded.assert_trajectory_is_recorded(name)


def test_noise_at_training_levels_equals_diffusers():
    run = recorded.arrays("scale_noise")
    scheduler = recorded.load("euler_shift3")
    tables = scheduler.training_tables()
    assert tables.timesteps.shape == (1000,)
    i = [int(np.flatnonzero(tables.timesteps == t)[0]) for t in run["timestep"]]
    sample, noise = jnp.asarray(run["sample"]), jnp.asarray(run["noise"])
    got = scheduler.scale_noise(sample, noise, jnp.array(i), tables)
    parity.assert_close(got, run["out"], 3, "scale_noise")


def test_the_last_sigma_is_shifted_twice_unless_sigmas_are_given():
    scheduler = recorded.load("euler_shift3")
    assert scheduler.set_timesteps(6).sigmas[-2] == pytest.approx(0.0089286, abs=1e-6)
    given = scheduler.set_timesteps(6, np.linspace(1, 1e-3, 6))
    assert given.sigmas[-2] == pytest.approx(0.0029940, abs=1e-6)


def test_one_step_goes_to_the_predicted_video():
    scheduler = FlowMatchEulerDiscreteScheduler()
    tables = scheduler.set_timesteps(1)
    x0, noise = jnp.full((1, 2), 0.7), jnp.full((1, 2), -3.0)
    x, _ = scheduler.step(noise - x0, 0, noise, (), tables)
    np.testing.assert_allclose(x, x0, rtol=1e-6)


def test_what_is_not_implemented_is_refused():
    for field, value in {
        "use_dynamic_shifting": True,
        "invert_sigmas": True,
        "shift_terminal": 0.1,
        "use_karras_sigmas": True,
        "use_exponential_sigmas": True,
        "use_beta_sigmas": True,
        "stochastic_sampling": True,
    }.items():
        with pytest.raises(ValueError, match=f"{field}={value} is not implemented; it must be"):
            FlowMatchEulerDiscreteConfig(**{field: value})
    with pytest.raises(ValueError, match=r"shift=0 must lie in 0\.01\.\.100; 1 means no shift"):
        FlowMatchEulerDiscreteConfig(shift=0)
