import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.schedulers import CleanEulerConfig, CleanEulerScheduler


def test_times_run_from_one_to_zero_and_shift_towards_noise():
    plain, shifted = (
        CleanEulerScheduler(CleanEulerConfig(shift=s)).set_timesteps(10) for s in (1.0, 3.0)
    )
    np.testing.assert_allclose(plain.sigmas, np.linspace(1, 0, 11), atol=1e-7)
    np.testing.assert_array_equal(shifted.timesteps, shifted.sigmas[:-1])
    assert (shifted.sigmas[0], shifted.sigmas[-1]) == (1, 0)
    assert (shifted.sigmas[1:-1] > plain.sigmas[1:-1]).all()
    given = CleanEulerScheduler().set_timesteps(2, [0.8, 0.5])
    np.testing.assert_array_equal(given.sigmas, np.float32([0.8, 0.5, 0]))
    with pytest.raises(ValueError, match=r"shift=0 must be above 0"):
        CleanEulerConfig(shift=0)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_euler_arrives_at_the_predicted_video(key, shift):
    scheduler = CleanEulerScheduler(CleanEulerConfig(shift=shift))
    x, answer = jax.random.normal(key, (2, 1, 2, 2, 1)), jnp.full((2, 1, 2, 2, 1), 0.7)
    tables = scheduler.set_timesteps(8)
    noised = scheduler.scale_noise(answer, x, 3, tables)
    for i in range(8):
        if i == 3:  # along the straight path from noise to the video
            np.testing.assert_allclose(x, noised, atol=1e-5)
        x, state = scheduler.step(answer, i, x, scheduler.init(x), tables)
        assert state == ()
    np.testing.assert_allclose(x, answer, atol=1e-5)
