import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.schedulers import recorded

NAMES = recorded.names("CogVideoXDDIMScheduler")


@pytest.mark.parametrize("name", NAMES)
def test_timesteps_equal_diffusers(name):
    recorded.assert_tables_are_recorded(name)


@pytest.mark.parametrize("name", NAMES)
def test_trajectory_equals_diffusers(name):
    recorded.assert_trajectory_is_recorded(name)


def test_a_model_that_knows_the_video_leads_to_it(key):
    # v = (sqrt(a) x_t - x_0) / sqrt(1 - a), from x_t = sqrt(a) x_0 + sqrt(1 - a) noise.
    scheduler = recorded.load("ddim_cog2b")
    tables = scheduler.set_timesteps(50)
    x0, x = jax.random.normal(key, (2, 1, 4))
    for i in range(50):
        root = jnp.sqrt(tables.alphas[i])
        x, _ = scheduler.step((root * x - x0) / jnp.sqrt(1 - tables.alphas[i]), i, x, (), tables)
    np.testing.assert_allclose(x, x0, atol=1e-4)
