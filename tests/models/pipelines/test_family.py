"""What the loop asks of every family."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from models.pipelines import Conditions, Wan
from models.pipelines.family import guide
from models.schedulers import FlowMatchEulerDiscreteScheduler
from models.transformer import TransformerOutput
from models.wan import PRESETS
from models.wan_vae import PRESETS as VAES


@pytest.fixture
def wan():
    scheduler = FlowMatchEulerDiscreteScheduler()
    return Wan(Path("w"), PRESETS["wan2.1-t2v-14b"], VAES["wan2.1-vae"], scheduler)


def test_guidance_extrapolates():
    assert guide(3.0, 1.0, 2.0) == 5.0
    assert guide(3.0, 1.0, 1.0) == 3.0
    assert guide(3.0, 1.0, 0.0) == 1.0


def test_guidance_mixes_the_rows(wan):
    class Model:
        dtype = jnp.float32

        def __call__(
            self, *, hidden_states, timestep, encoder_hidden_states, attention, states, ctx
        ):
            assert hidden_states.shape[0] == timestep.shape[0] == encoder_hidden_states.shape[0]
            out = hidden_states * encoder_hidden_states.reshape(-1, 1, 1, 1, 1)
            return TransformerOutput(out, states)

    x = jnp.ones((1, 1, 1, 1, 2))
    inputs = {"encoder_hidden_states": jnp.asarray([2.0, 0.5]).reshape(2, 1, 1)}
    rows = Conditions(inputs=inputs, guidance=jnp.float32(3.0))
    out, states = wan.predict(Model(), x, jnp.float32(7), rows, None, (), None)
    np.testing.assert_allclose(out, 0.5 + 3.0 * 1.5 * x)
    assert states == ()
    one = Conditions(inputs={"encoder_hidden_states": jnp.asarray([2.0]).reshape(1, 1, 1)})
    np.testing.assert_allclose(
        wan.predict(Model(), x, jnp.float32(7), one, None, (), None)[0], 2 * x
    )
