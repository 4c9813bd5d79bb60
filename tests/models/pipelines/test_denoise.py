"""The denoising loop, on a Wan of one block."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.pipelines import Clip, Conditions, Denoiser, Progress, Wan
from models.schedulers import UniPCMultistepConfig, UniPCMultistepScheduler
from models.wan import WanConfig, WanTransformer
from models.wan_vae import WanVAEConfig
from sparsevdit_jax import Phase, SparseAttention, StepSchedule
from sparsevdit_jax.patterns import AdaSpa, Dense, SlidingTile

from ..random_weights import random_model

CLIP = Clip(9, 32, 48)
STEPS = 4


@pytest.fixture(scope="module")
def model():
    config = WanConfig(
        num_attention_heads=2,
        attention_head_dim=16,
        ffn_dim=32,
        num_layers=1,
        text_dim=8,
        freq_dim=16,
    )
    return random_model(WanTransformer, config)


@pytest.fixture(scope="module")
def family(model):
    flow = UniPCMultistepConfig(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    return Wan(Path("tiny"), model.config, WanVAEConfig(), UniPCMultistepScheduler(flow))


@pytest.fixture(scope="module")
def conditions():
    text = jax.random.normal(jax.random.key(1), (2, 5, 8))
    return Conditions(inputs={"encoder_hidden_states": text}, guidance=jnp.float32(3.0))


def denoiser(family, model, attention=None):
    return Denoiser(
        family,
        family.latent_shape(CLIP),
        num_steps=STEPS,
        text_len=5,
        attention=attention,
    )


def noise(family):
    return jax.random.normal(jax.random.key(2), family.latent_shape(CLIP))


def test_a_run_is_the_scheduler_s_steps_along_guided_predictions(family, model, conditions):
    run = denoiser(family, model)
    seen = []
    got = run.run(
        model,
        conditions,
        run.start(noise(family), conditions),
        lambda p, now: seen.append((p, now.step)),
    )
    assert seen == [(Phase.DENSE, step) for step in range(1, STEPS + 1)]
    x, tables = noise(family), family.set_timesteps(STEPS)
    state = family.scheduler.init(x)
    call = jax.jit(lambda m, **inputs: m(**inputs).sample)
    for i in range(STEPS):
        time = jnp.full((2,), tables.timesteps[i])
        out = call(
            model,
            hidden_states=jnp.concatenate([x, x]),
            timestep=time,
            encoder_hidden_states=conditions.inputs["encoder_hidden_states"],
        )
        guided = out[1:] + 3.0 * (out[:1] - out[1:])
        x, state = family.scheduler.step(guided, i, x, state, tables)
    np.testing.assert_allclose(got, x, atol=1e-5)


def test_full_attention_as_a_pattern_is_dense(family, model, conditions):
    plain, pattern = (
        denoiser(family, model, a)
        for a in (None, SparseAttention.uniform(Dense(), 1, StepSchedule(STEPS, 1)))
    )
    a, b = (d.run(model, conditions, d.start(noise(family), conditions)) for d in (plain, pattern))
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_an_interrupted_run_with_state_ends_with_the_same_bits(family, model, conditions):
    attention = SparseAttention.uniform(AdaSpa(0.5, 8), 1, StepSchedule.adaspa(STEPS, (1, 3)))
    run = denoiser(family, model, attention)
    kept = {}

    def keep(phase, now):
        kept[now.step] = phase, jax.tree.map(np.asarray, (now.x, now.solver, now.states))

    whole = np.asarray(run.run(model, conditions, run.start(noise(family), conditions), keep))
    assert [kept[i][0] for i in range(1, STEPS + 1)] == list(attention.schedule.phases())
    assert {phase for phase, _ in kept.values()} == {
        Phase.FIRST_SEARCH,
        Phase.SEARCH,
        Phase.REUSE,
    }
    for step in (1, 2, 3):
        begin = Progress(step, *jax.tree.map(jnp.asarray, kept[step][1]))
        np.testing.assert_array_equal(run.run(model, conditions, begin), whole)


def test_memory_is_planned_without_weights_or_arrays(family, model, conditions):
    attention = SparseAttention.uniform(
        SlidingTile((3, 2, 3), (1, 1, 1)), 1, StepSchedule(STEPS, 1)
    )
    run = denoiser(family, model, attention)
    shapes = jax.eval_shape(lambda: (model, conditions))
    plans = run.compile(*shapes)
    assert plans.keys() == {Phase.DENSE, Phase.REUSE}
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(nnx.state(model)))
    for memory in plans.values():
        assert memory.arguments > weights
        assert memory.peak == memory.arguments + memory.temporaries + memory.results
        assert memory.temporaries > 0
    assert np.isfinite(run.run(model, conditions, run.start(noise(family), conditions))).all()


def test_a_schedule_for_other_steps_is_refused(family, model):
    attention = SparseAttention.uniform(Dense(), 1, StepSchedule(STEPS + 1))
    with pytest.raises(ValueError, match="num_steps=4 but the attention's schedule is for 5"):
        denoiser(family, model, attention)


def test_single_steps_are_the_run_and_take_any_phase(family, model, conditions):
    attention = SparseAttention.uniform(AdaSpa(0.5, 8), 1, StepSchedule.adaspa(STEPS, (1, 3)))
    run = denoiser(family, model, attention)
    whole = run.run(model, conditions, run.start(noise(family), conditions))
    now = run.start(noise(family), conditions)
    for _ in range(2):
        now = run.step(model, conditions, now)
    copied = jax.tree.map(np.asarray, (now.x, now.solver, now.states))
    searched = run.step(model, conditions, now, phase=Phase.SEARCH)  # the schedule has reuse here
    now = Progress(2, *jax.tree.map(jnp.asarray, copied))
    for _ in range(2):
        now = run.step(model, conditions, now)
    np.testing.assert_array_equal(now.x, whole)
    assert (now.step, searched.step) == (4, 3)
    before, after = (
        jax.tree.leaves(states) for states in (copied[2], jax.tree.map(np.asarray, searched.states))
    )
    assert any((a != b).any() for a, b in zip(before, after, strict=True))


def test_what_cannot_start_is_refused(family, model, conditions):
    run = denoiser(family, model)
    with pytest.raises(ValueError, match=r"UniPCMultistepScheduler looks back at earlier steps"):
        run.start(noise(family), conditions, 1)
    with pytest.raises(ValueError, match=r"step=5 must lie in 0\.\.4"):
        run.start(noise(family), conditions, 5)
    alone = dataclasses.replace(conditions, guidance=None)
    with pytest.raises(ValueError, match=r"conditions of 2 rows: .* needs 1 rows"):
        run.start(noise(family), alone)
    with pytest.raises(ValueError, match=r"this run is of shape \(1, 16, 3, 4, 6\)"):
        run.start(noise(family)[:, :, :1], conditions)
