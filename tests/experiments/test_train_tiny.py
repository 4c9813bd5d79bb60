import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments import train_tiny
from experiments.curriculum import PLANS, Plan, Stage
from experiments.train_tiny import Config, Trainer, batch_at, main, record_of, velocity_loss
from experiments.training import make_optimizer
from models.keys import checkpoint_slots
from models.tiny import TinyConfig, load_tiny

# The windows are those of the last stage's canvas, which is larger.
pytestmark = pytest.mark.filterwarnings("ignore:SlidingTile window")

SMALL = TinyConfig(dim=32, num_layers=1, num_heads=4, condition_tokens=2, patch=(1, 4, 4))


@pytest.fixture(autouse=True)
def _standard_promotion():
    """optax mixes Python floats and integers in its own arithmetic."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setattr(train_tiny, "TinyConfig", lambda: SMALL)
    stages = (Stage(3, 2, 8, 8, 2, 1.0), Stage(3, 4, 8, 8, 1, 2.0, sparse=0.7))
    monkeypatch.setitem(train_tiny.PLANS, "quick", Plan(stages))
    return Config(out=tmp_path / "run", plan="quick", save_every=3)


def leaves(trainer):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(trainer.state)]


def test_a_resumed_run_has_the_same_bits(config):
    whole = Trainer(config)
    straight = [whole.advance() for _ in range(6)]
    other = dataclasses.replace(config, out=config.out.with_name("second"))
    first = Trainer(other)
    losses = [first.advance() for _ in range(4)]
    first.save()
    second = Trainer(other)
    assert second.step == 4
    losses += [second.advance() for _ in range(2)]
    assert losses == straight
    for a, b in zip(leaves(whole), leaves(second), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_command_writes_weights_that_load_curve_and_samples(config):
    main(config)
    path = config.out / "tiny_digits.safetensors"
    assert load_tiny(path).config == SMALL
    written = sorted(p.name for p in config.out.iterdir())
    assert written == ["checkpoints", "config.json", "samples_000003.png", "samples_000006.png",
                       "tiny_digits.json", "tiny_digits.safetensors"]  # fmt: skip
    with pytest.raises(SystemExit, match=r"other flags \(seed: 0 -> 1\); use another --out"):
        main(dataclasses.replace(config, seed=1))


def test_batches_repeat_and_follow_the_stage(config):
    (first, _), (again, _) = (batch_at(config, 4, SMALL) for _ in range(2))
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
    assert first["x0"].shape == (1, 4, 32, 32, 1)
    assert batch_at(config, 0, SMALL)[0]["x0"].shape == (2, 2, 32, 32, 1)
    assert {batch_at(config, step, SMALL)[1] for step in (0, 1, 2)} == {False}


def test_training_on_one_batch_lowers_its_loss(config):
    trainer = Trainer(config)
    batch, _ = batch_at(config, 0, SMALL)
    loss = jax.jit(lambda state: velocity_loss(nnx.merge(trainer.graph, state["params"]), batch))
    before = float(loss(trainer.state))
    optimizer = make_optimizer(learning_rate=3e-3, warmup=200, total_steps=6)
    for _ in range(100):
        trainer.state, _ = train_tiny.train_step(
            trainer.state, batch, jnp.float32(0.9), graph=trainer.graph, optimizer=optimizer
        )
    assert float(loss(trainer.state)) < 0.5 * before


def test_a_second_run_starts_from_the_first_ones_weights(config):
    main(config)
    weights = config.out / "tiny_digits.safetensors"
    second = Trainer(dataclasses.replace(config, out=config.out.with_name("b"), init=weights))
    expected = load_tiny(weights)
    got, want = (checkpoint_slots(m, None) for m in (second.averaged_model(), expected))
    for name, slot in got.items():
        np.testing.assert_array_equal(slot.parameter[...], want[name].parameter[...])
    record = json.loads(weights.with_suffix(".json").read_text())
    assert record["steps"] == 6
    assert record["flags"]["plan"] == "quick"
    assert record_of(second)["started_from"] == record


def test_plans_reach_the_demo_and_turns_follow_their_shares():
    first = PLANS["short"]
    assert first.stage_at(0) is first.stages[0]
    assert first.stage_at(first.total_steps - 1) is first.stages[-1]
    for name in ("short", "long"):
        last = PLANS[name].stages[-1]
        assert last.frames * last.height * last.width >= 4096
        assert last.sparse > 0.5
    by_turns = Plan((Stage(30, 1, 8, 8, 1, 1.0), Stage(10, 2, 8, 8, 1, 1.0)), by_turns=True)
    drawn = [by_turns.stage_at(step) for step in range(400)]
    assert 0.65 < np.mean([stage is by_turns.stages[0] for stage in drawn]) < 0.85
    assert drawn == [by_turns.stage_at(step) for step in range(400)]
