"""What holds for every scheduler."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.schedulers import recorded

EACH = pytest.mark.parametrize(
    "name", ["euler_shift3", "unipc_order3", "ddim_cog2b", "dpm_cog5b"], ids=lambda name: name
)
SHAPE = (2, 3, 2, 4)


@EACH
def test_a_traced_step_gives_the_same_bits_in_one_compiled_program(name, key):
    scheduler, outputs = recorded.load(name), jax.random.normal(key, (5, *SHAPE))
    tables, x = scheduler.set_timesteps(5), jax.random.normal(jax.random.key(1), SHAPE)
    compiled = jax.jit(scheduler.step)
    with_static_scheduler = jax.jit(type(scheduler).step, static_argnums=0)
    looped = jax.jit(
        lambda x: jax.lax.fori_loop(
            0,
            5,
            lambda i, carry: scheduler.step(outputs[i], i, *carry, tables, key),
            (x, scheduler.init(x)),
        )
    )(x)[0]
    start, y, state = x, x, scheduler.init(x)
    for i in range(5):
        arguments = (outputs[i], jnp.int32(i), y, state, tables, key)
        again = with_static_scheduler(scheduler, *arguments)
        y, state = compiled(*arguments)
        jax.tree.map(np.testing.assert_array_equal, again, (y, state))
    assert compiled._cache_size() == 1
    np.testing.assert_allclose(looped, y, rtol=1e-5, atol=1e-6)
    assert not np.array_equal(start, y)


@EACH
def test_latents_keep_their_dtype_and_are_computed_in_float32(name, key):
    scheduler = recorded.load(name)
    tables = scheduler.set_timesteps(4)
    x, output, noise = jax.random.normal(key, (3, *SHAPE), jnp.bfloat16)
    wide, narrow = x.astype(jnp.float32), x
    states = scheduler.init(wide), scheduler.init(narrow)
    assert jax.tree.map(jnp.shape, states[0]) == jax.tree.map(jnp.shape, states[1])
    for i in range(4):
        got, state = scheduler.step(output, i, narrow, states[1], tables, noise)
        same, wide_state = scheduler.step(
            output.astype(jnp.float32), i, narrow.astype(jnp.float32), states[1], tables, noise
        )
        assert (got.dtype, same.dtype) == (jnp.bfloat16, jnp.float32)
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(state))
        np.testing.assert_array_equal(got, same.astype(jnp.bfloat16))
        jax.tree.map(np.testing.assert_array_equal, state, wide_state)
        states, narrow = (None, state), got
    noised = scheduler.scale_noise(x, noise, 1, tables)
    assert noised.dtype == jnp.bfloat16


@EACH
def test_noise_of_one_level_for_all_videos_or_one_each(name, key):
    scheduler = recorded.load(name)
    tables = scheduler.set_timesteps(20)
    x, noise = jax.random.normal(key, (2, *SHAPE))
    each = jax.jit(scheduler.scale_noise)(x, noise, jnp.array([0, 19]), tables)
    for video, i in enumerate((0, 19)):
        one = scheduler.scale_noise(x, noise, i, tables)
        np.testing.assert_allclose(each[video], one[video], rtol=1e-6, atol=1e-6)
    # Noise at first; how much is left in the last step depends on the shift, but it is more video than noise.
    assert np.abs(each[0] - noise[0]).max() < 1e-4
    assert np.abs(each[1] - x[1]).mean() < np.abs(each[1] - noise[1]).mean()


@EACH
def test_a_run_that_starts_later_ends_as_if_there_were_nothing_before(name, key):
    # With `start` at the last step there is no history: all solvers are of first order there.
    scheduler = recorded.load(name)
    x, output, noise = jax.random.normal(key, (3, *SHAPE))
    tables = scheduler.set_timesteps(6, start=4)
    fresh, _ = scheduler.step(output, 4, x, scheduler.init(x), tables, noise)
    history = jax.tree.map(lambda leaf: leaf + 100, scheduler.init(x))
    haunted, _ = scheduler.step(output, 4, x, history, tables, noise)
    np.testing.assert_allclose(fresh, haunted, atol=1e-6)
    assert all(np.isfinite(table).all() for table in jax.tree.leaves(tables))


@pytest.mark.parametrize("name", ["euler_shift3", "unipc_wan480"])
@pytest.mark.parametrize("shift", [1e-30, 0.009, 101.0, 1e30])
def test_a_shift_that_leaves_no_levels_is_refused(name, shift):
    scheduler = recorded.load(name)
    field = "shift" if hasattr(scheduler.config, "shift") else "flow_shift"
    with pytest.raises(
        ValueError, match=rf"shift={re.escape(str(shift))} must lie in 0\.01\.\.100; 1 means no"
    ):
        dataclasses.replace(scheduler.config, **{field: shift})
    for fine in (0.01, 100.0):
        config = dataclasses.replace(scheduler.config, **{field: fine})
        dataclasses.replace(scheduler, config=config).set_timesteps(30)


@EACH
def test_bad_calls_are_refused(name, key):
    scheduler = recorded.load(name)
    x, tables = jnp.zeros(SHAPE), scheduler.set_timesteps(4)
    state = scheduler.init(x)
    with pytest.raises(ValueError, match=r"num_steps=0 must lie in 1\.\.1000"):
        scheduler.set_timesteps(0)
    with pytest.raises(ValueError, match=r"num_steps=1000000000 must lie in 1\.\.1000"):
        scheduler.set_timesteps(10**9)
    with pytest.raises(TypeError):
        scheduler.set_timesteps(4.5)
    with pytest.raises(ValueError, match=r"start=4 must lie in 0\.\.3"):
        scheduler.set_timesteps(4, start=4)
    with pytest.raises(ValueError, match=r"combine the branches of guidance before the step"):
        scheduler.step(jnp.zeros((4, *SHAPE[1:])), 0, x, state, tables, key)
    for i in (4, -1, 999):
        with pytest.raises(ValueError, match=rf"step i={i} must lie in 0\.\.3.*not its timestep"):
            scheduler.step(x, i, x, state, tables, key)


@pytest.mark.parametrize("name", ["euler_shift3", "unipc_wan480"])
def test_sigmas_that_are_no_schedule_are_refused(name):
    scheduler = recorded.load(name)
    for sigmas in ([1.0, 0.5], [1.0, 0.7, 0.4, 0.0, 0.0]):
        with pytest.raises(
            ValueError, match=r"must be one per step, \(4,\); leave out the final 0"
        ):
            scheduler.set_timesteps(4, sigmas)
    for sigmas in (
        [0.2, 0.4, 0.6, 0.8],
        [0.8, 0.6, 0.6, 0.2],
        [1.0, 0.6, 0.3, 0.0],
        [2.0, 0.6, 0.3, 0.1],
        [1.0, np.nan, 0.3, 0.1],
    ):
        with pytest.raises(ValueError, match="sort them in descending order"):
            scheduler.set_timesteps(4, sigmas)


def test_given_sigmas_are_not_changed_and_whole_numbers_are_taken():
    scheduler = recorded.load("unipc_wan480")
    sigmas = np.linspace(1, 0, 5)[:-1]
    scheduler.set_timesteps(4, sigmas)
    assert sigmas[0] == 1
    assert scheduler.set_timesteps(1, [1]).timesteps[0] == 999
