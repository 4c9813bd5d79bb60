import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from models.schedulers import UniPCMultistepConfig, UniPCMultistepScheduler
from models.schedulers.unipc import transition
from tests.models.schedulers import recorded

NAMES = recorded.names("UniPCMultistepScheduler")
WAN = recorded.load("unipc_wan480").config


@pytest.mark.parametrize("name", NAMES)
def test_timesteps_and_sigmas_equal_diffusers(name):
    recorded.assert_tables_are_recorded(name)


@pytest.mark.parametrize("name", NAMES)
def test_trajectory_equals_diffusers(name):
    recorded.assert_trajectory_is_recorded(name)


def test_orders_rise_from_the_start_and_fall_to_the_end():
    config = dataclasses.replace(WAN, solver_order=3)
    tables = UniPCMultistepScheduler(config).set_timesteps(7, start=1)
    used = (tables.predictor.on_differences[1:] != 0).sum(axis=1)
    np.testing.assert_array_equal(used, [0, 1, 2, 2, 1, 0])
    np.testing.assert_array_equal(tables.corrects, [False, False, True, True, True, True, True])
    # A step corrects with the order that the step before it predicted with.
    older = (tables.corrector.on_differences[2:, :-1] != 0).sum(axis=1)
    np.testing.assert_array_equal(older, used[:-1])


def test_corrections_are_turned_off_by_the_step_they_would_correct():
    config = dataclasses.replace(WAN, disable_corrector=(0, 2))
    tables = UniPCMultistepScheduler(config).set_timesteps(5)
    np.testing.assert_array_equal(tables.corrects, [False, False, True, False, True])


def test_the_last_step_goes_to_the_prediction():
    sigmas = np.array([0.4, 0.1, 0], np.float32)
    predictor, _ = transition(sigmas, 1, 1, 2)
    assert (float(predictor.on_x), float(predictor.on_x0)) == (0, 1)


def final_error(order: int, num_steps: int) -> float:
    """Error at the end of a run whose exact answer is known: videos of one normal distribution, width 0.3.

    There x_t has width w(t) = hypot(0.3 (1 - t), t), the velocity is x w'(t) / w(t), and so x_0 = 0.3 x_1.
    """
    scheduler = UniPCMultistepScheduler(
        dataclasses.replace(WAN, solver_order=order, flow_shift=1.0)
    )
    tables = scheduler.set_timesteps(num_steps)
    x, state = jnp.ones((1, 1)), scheduler.init(jnp.ones((1, 1)))
    for i in range(num_steps):
        t = float(tables.sigmas[i])
        slope = (t - 0.09 * (1 - t)) / (0.09 * (1 - t) ** 2 + t**2)
        x, state = scheduler.step(x * slope, i, x, state, tables)
    return abs(float(x[0, 0]) - 0.3)


def test_more_steps_and_higher_orders_are_nearer_to_the_exact_answer():
    first, second, third = (final_error(order, 20) for order in (1, 2, 3))
    assert third < second / 3 < first / 9 < 0.002
    assert second < final_error(2, 10) / 4


def test_what_is_not_implemented_is_refused():
    for field, value in {
        "use_flow_sigmas": False,
        "prediction_type": "epsilon",
        "predict_x0": False,
        "solver_order": 4,
        "solver_type": "bh1",
        "lower_order_final": False,
        "final_sigmas_type": "sigma_min",
        "thresholding": True,
        "solver_p": "another solver",
        "use_karras_sigmas": True,
        "use_exponential_sigmas": True,
        "use_beta_sigmas": True,
        "use_dynamic_shifting": True,
        "shift_terminal": 0.1,
    }.items():
        with pytest.raises(ValueError, match=f"{field}={value!r} is not implemented; it must be"):
            dataclasses.replace(WAN, **{field: value})
    with pytest.raises(ValueError, match="use_flow_sigmas=False is not implemented"):
        UniPCMultistepConfig()
    with pytest.raises(
        ValueError, match=r"flow_shift=-1 must lie in 0\.01\.\.100; 1 means no shift"
    ):
        dataclasses.replace(WAN, flow_shift=-1)


def test_noise_levels_that_float32_cannot_tell_apart_are_refused():
    scheduler = UniPCMultistepScheduler(WAN)
    with pytest.raises(
        ValueError,
        match="the 2 noise levels do not fall from 1 to 0 in float32 after the shift by 3",
    ):
        scheduler.set_timesteps(2, [0.5, 0.5 - 1e-10])
