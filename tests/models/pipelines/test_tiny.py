"""Digits from their classes, in the one loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.pipelines import Denoiser, Tiny
from models.transformer import TransformerOutput
from sparsevdit_jax import SparseAttention, StepSchedule
from sparsevdit_jax.patterns import AdaSpa
from tests.models.test_tiny import SMALL, make_model


@pytest.fixture
def family():
    return Tiny(SMALL, 3.0)


def test_classes_become_rows(family):
    plain, guided = family.conditions([3, 7], 1.0), family.conditions((3, 7), 2.0)
    assert (plain.rows, plain.guidance) == (2, None)
    np.testing.assert_array_equal(guided.inputs["label"], [3, 7, 10, 10])
    assert guided.guidance == 2.0
    assert guided.inputs["label"].dtype == jnp.int32
    assert family.guided(0.0)  # away from the class
    assert family.scheduler.config.shift == 3.0


@pytest.mark.parametrize(
    ("classes", "guidance", "message"),
    [
        (3, 1.0, "classes=3 must be one whole number for each video; give a list"),
        ([0.5], 1.0, r"classes=\[0\.5\] must be one whole number"),
        ([11], 1.0, r"classes=\[11\] must lie in 0\.\.10; 10 means no class"),
        ([1], float("nan"), "guidance=nan must be a finite number"),
    ],
)
def test_bad_conditions_are_refused(family, classes, guidance, message):
    with pytest.raises(ValueError, match=message):
        family.conditions(classes, guidance)


def test_guidance_is_of_the_rows_without_a_class(family):
    def model(*, hidden_states, timestep, label, **kwargs):
        del kwargs
        assert hidden_states.shape[0] == timestep.shape[0] == 4
        answer = 0.1 * label.reshape(-1, 1, 1, 1, 1).astype(jnp.float32)
        return TransformerOutput(jnp.broadcast_to(answer, hidden_states.shape), ())

    x, conditions = jnp.ones((2, 1, 2, 2, 1)), family.conditions([3, 7], 3.0)
    out, _ = family.predict(model, x, jnp.float32(1), conditions, None, (), None)
    want = 1.0 + 3.0 * (np.float32([0.3, 0.7]) - 1.0)
    np.testing.assert_allclose(out, want.reshape(2, 1, 1, 1, 1) * x, rtol=1e-5)


def test_a_guided_sparse_run_compiles_a_program_for_each_phase_and_starts_anywhere(family):
    model, schedule = make_model(), StepSchedule.adaspa(8, (3, 6))
    attention = SparseAttention((AdaSpa(block=8),) * SMALL.num_layers, schedule)
    noise = jax.random.normal(jax.random.key(5), (1, 4, 8, 8, 1))
    loop = Denoiser(family, noise.shape, num_steps=8, attention=attention)
    conditions, seen = family.conditions([3], 2.0), []
    out = loop.run(
        model,
        conditions,
        loop.start(noise, conditions),
        lambda phase, now: seen.append((phase, jnp.array(now.x))),
    )
    programs = loop.compile(model, conditions)
    assert programs.keys() == set(schedule.phases())
    assert len(programs) == 4
    assert [phase for phase, _ in seen] == list(schedule.phases())
    assert out.shape == noise.shape
    assert bool(jnp.isfinite(out).all())
    forked = loop.run(model, conditions, loop.start(seen[1][1], conditions, 2))
    np.testing.assert_array_equal(out, forked)  # same bits, after two dense steps
    later = Denoiser(family, noise.shape, num_steps=8, attention=attention)
    assert later.compile(model, conditions, start=7).keys() == {schedule.phase(7)}
