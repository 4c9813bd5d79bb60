import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.schedulers import recorded

NAMES = recorded.names("CogVideoXDPMScheduler")


@pytest.mark.parametrize("name", NAMES)
def test_timesteps_equal_diffusers(name):
    recorded.assert_tables_are_recorded(name)


@pytest.mark.parametrize("name", NAMES)
def test_trajectory_equals_diffusers_with_the_last_draw_of_each_step(name):
    draws = recorded.arrays(name)["traj/noise_draws"]
    np.testing.assert_array_equal(draws, [1, 2, 2, 2, 2, 2])
    recorded.assert_trajectory_is_recorded(name)


def test_first_and_last_steps_are_of_first_order():
    scheduler = recorded.load("dpm_cog5b")
    for start in (0, 3):
        tables = scheduler.set_timesteps(50, start=start)
        assert tables.on_old[start] == tables.on_old[-1] == 0
        assert (tables.on_old[start + 2 : -1] > 0).all()
    tables = scheduler.set_timesteps(50)
    assert tables.on_old[1] == 0  # what lies behind it is pure noise, infinitely far away
    assert (tables.on_x[0], tables.on_noise[-1], tables.on_x0[-1]) == (0, 0, 1)


def test_a_key_draws_other_noise_in_each_step_and_the_same_again(key):
    scheduler = recorded.load("dpm_cog5b")
    tables, x = scheduler.set_timesteps(6), jnp.zeros((1, 4, 8, 8))
    state = scheduler.init(x)
    step = jax.jit(lambda i, key: scheduler.step(x, i, x, state, tables, key)[0])
    drawn = [step(i, key) / tables.on_noise[i] for i in range(5)]  # x and x_0 are zero
    np.testing.assert_array_equal(step(2, key) / tables.on_noise[2], drawn[2])
    for i, one in enumerate(drawn):
        assert abs(float(one.std()) - 1) < 0.1
        assert all(np.abs(one - other).max() > 1 for other in drawn[:i])
    given = jax.random.normal(jax.random.fold_in(key, 2), x.shape)
    np.testing.assert_array_equal(
        scheduler.step(x, 2, x, state, tables, given)[0],
        scheduler.step(x, 2, x, state, tables, key)[0],
    )


def test_missing_or_wrong_noise_is_refused():
    scheduler = recorded.load("dpm_cog5b")
    tables, x = scheduler.set_timesteps(6), jnp.zeros((1, 4))
    state = scheduler.init(x)
    assert scheduler.draws_noise
    assert not recorded.load("ddim_cog2b").draws_noise
    with pytest.raises(ValueError, match=r"adds noise in every step; pass noise=jax\.random\.key"):
        scheduler.step(x, 0, x, state, tables)
    for noise in (jnp.zeros((2, 4)), jnp.zeros((1, 4), jnp.int32), jax.random.PRNGKey(0)):
        with pytest.raises(ValueError, match=r"must be floats of x's shape, \(1, 4\), or a key"):
            scheduler.step(x, 0, x, state, tables, noise)
