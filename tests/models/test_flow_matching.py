import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.flow_matching import add_noise, per_video, shift_time, velocity


def test_shift_moves_times_towards_noise_and_keeps_the_ends():
    assert shift_time(0.5, 3.0) == pytest.approx(0.75)
    assert (shift_time(0.0, 3.0), shift_time(1.0, 3.0)) == (0, 1)


def test_one_time_for_all_videos_or_one_each(key):
    x0, noise = jax.random.normal(key, (2, 3, 2, 2))
    assert per_video(jnp.ones(3), x0).shape == (3, 1, 1)
    np.testing.assert_array_equal(
        add_noise(x0, noise, jnp.float32(0.3)), add_noise(x0, noise, jnp.full(3, 0.3))
    )


def test_velocity_is_noise_minus_video(key):
    x0, noise = jax.random.normal(key, (2, 3, 2, 2, 2, 1))
    t = jnp.array([0.1, 0.5, 1.0])
    np.testing.assert_allclose(
        velocity(add_noise(x0, noise, t), x0, t), noise - x0, rtol=1e-4, atol=1e-4
    )


def test_velocity_stays_bounded_at_time_zero():
    x = jnp.ones((1, 1, 1, 1, 1))
    assert float(velocity(x, 0 * x, jnp.zeros(1), t_min=0.05).max()) == pytest.approx(20)
