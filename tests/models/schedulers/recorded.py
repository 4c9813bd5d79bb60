"""Runs of diffusers' schedulers in tests/golden/parity/schedulers.npz, and ours on the same numbers."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np

from models.schedulers import scheduler_from_json
from tests.models import parity

# Roundings in a row of one step: the prediction from the output 3, a sum of up to four products of latents 8.
STEP = 11

DOCUMENTS = json.loads((parity.FOLDER / "schedulers.json").read_text())["schedulers"]


def names(class_name: str) -> list[str]:
    """Recorded configurations of one class."""
    found = [n for n, document in DOCUMENTS.items() if document.get("class") == class_name]
    assert found, class_name
    return found


def load(name: str):
    """The scheduler of a recorded configuration."""
    document = DOCUMENTS[name]
    return scheduler_from_json({"_class_name": document["class"], **document["config"]})


@functools.cache
def arrays(name: str) -> dict[str, np.ndarray]:
    """What is recorded under a name: "6/timesteps", "traj/x", ..."""
    with np.load(parity.FOLDER / "schedulers.npz") as file:
        return {k.removeprefix(f"{name}/"): file[k] for k in file.files if k.startswith(f"{name}/")}


def tables(name: str, num_steps: int):
    """Tables of a recorded run; some were given sigmas, as HunyuanVideo's pipeline does."""
    given = DOCUMENTS[name]["explicit_sigmas_linspace_1_0"]
    sigmas = np.linspace(1, 0, num_steps + 1)[:-1] if given else None
    return load(name).set_timesteps(num_steps, sigmas)


def assert_tables_are_recorded(name: str) -> None:
    """Timesteps and sigmas of every recorded number of steps, to the bit; all weights are numbers."""
    for num_steps in DOCUMENTS[name]["steps"]:
        ours, theirs = tables(name, num_steps), arrays(name)
        np.testing.assert_array_equal(ours.timesteps, theirs[f"{num_steps}/timesteps"])
        if f"{num_steps}/sigmas" in theirs:
            np.testing.assert_array_equal(ours.sigmas, theirs[f"{num_steps}/sigmas"])
        assert all(np.isfinite(table).all() for table in jax.tree.leaves(ours))


def noise(name: str) -> jax.Array:
    """[n, ...], the draw of each step that counts: its last. Zeros where none was recorded."""
    run = arrays(name)
    if "traj/noise" not in run:
        return jnp.zeros_like(run["traj/x"])
    draws = run["traj/noise_draws"]
    return jnp.asarray(run["traj/noise"][np.arange(len(draws)), draws - 1])


def assert_trajectory_is_recorded(name: str) -> None:
    """With the recorded model outputs: step by step from recorded latents, and scanned under jit from the first."""
    run, scheduler = arrays(name), load(name)
    outputs, want = jnp.asarray(run["traj/model_outputs"]), run["traj/x"]
    n = len(want)
    steps = tables(name, n)

    x, state = jnp.asarray(run["traj/x0"]), scheduler.init(run["traj/x0"])
    for i in range(n):
        x, state = scheduler.step(outputs[i], i, x, state, steps, noise(name)[i])
        parity.assert_close(x, want[i], STEP, f"{name}, step {i} from the recorded latent")
        x = jnp.asarray(want[i])

    @jax.jit
    def sample(x, outputs, noise):
        def step(carry, inputs):
            i, output, noise = inputs
            x, state = scheduler.step(output, i, *carry, steps, noise)
            return (x, state), x

        carry = (x, scheduler.init(x))
        return jax.lax.scan(step, carry, (jnp.arange(n), outputs, noise))[1]

    got = sample(jnp.asarray(run["traj/x0"]), outputs, noise(name))
    for i in range(n):
        parity.assert_close(got[i], want[i], (1 + i) * STEP, f"{name}, scanned to step {i}")
