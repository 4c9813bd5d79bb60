import dataclasses
import json

import jax
import numpy as np
import pytest
from flax import nnx

from experiments.finetune_sta.__main__ import main
from experiments.finetune_sta.finetuner import Config, Finetuner
from experiments.record import read
from experiments.train_tiny import draw_batch
from models.tiny import TinyConfig, TinyVideoDiT, load_tiny, save_tiny
from sparsevdit_jax.distill import LossWeights
from tests.models.random_weights import random_model

SMALL = TinyConfig(dim=32, num_layers=1, num_heads=2, condition_tokens=2, patch=(1, 8, 8))


@pytest.fixture(autouse=True)
def _standard_promotion():
    """optax mixes Python floats and integers in its own arithmetic."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def config(tmp_path):
    weights = tmp_path / "teacher.safetensors"
    save_tiny(weights, random_model(TinyVideoDiT, SMALL))
    return Config(
        out=tmp_path / "run",
        weights=weights,
        tile=(2, 2, 2),
        window=(1, 1, 1),
        canvas=(2, 4, 4),
        steps=50,
        save_every=25,
        held_out=2,
        digits=(7,),
        sampling_steps=2,
        learning_rate=3e-3,
    )


def leaves(tuner):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tuner.state)]


@pytest.mark.slow  # saves and resumes through `experiments.training`, as test_train_tiny does
def test_a_resumed_run_has_the_same_bits_and_leaves_the_teacher_alone(config):
    whole = Finetuner(config)
    straight = [whole.advance() for _ in range(4)]
    other = dataclasses.replace(config, out=config.out.with_name("second"))
    first = Finetuner(other)
    losses = [first.advance() for _ in range(2)]
    first.save()
    second = Finetuner(other)
    assert second.step == 2
    losses += [second.advance() for _ in range(2)]
    assert losses == straight
    for a, b in zip(leaves(whole), leaves(second), strict=True):
        np.testing.assert_array_equal(a, b)
    before, after = (nnx.state(m) for m in (load_tiny(config.weights), second.teacher))
    jax.tree.map(np.testing.assert_array_equal, before, after)
    with pytest.raises(SystemExit, match=r"other flags \(attention: 0.5 -> 0.0\); use another"):
        Finetuner(dataclasses.replace(other, loss=LossWeights(attention=0.0)))


def test_the_command_measures_dense_before_and_after_once(config):
    main(config)
    main(config)  # nothing is left to do
    rows = [row["measured"] for row in read("finetune_sta", folder=config.out)]
    assert [(r["model"], r["step"]) for r in rows] == [
        ("dense", 0),
        ("black", 0),
        ("student", 0),
        ("student", 25),
        ("student", 50),
    ]
    dense, black, before, _, after = rows
    assert dense["held_out_final_loss"] == dense["held_out_attention_loss"] == [0, 0]
    assert dense["density"] == 1 > before["density"]
    assert min(before["held_out_final_loss"]) > 0
    assert len(black["psnr_db"]) == len(after["psnr_db"]) == len(after["ssim"]) == 1
    assert after["psnr_db"] != before["psnr_db"]
    written = {path.name for path in config.out.iterdir()}
    assert {"pictures", "config.json", "loss.jsonl"} <= written
    drawn = sorted(path.name for path in (config.out / "pictures").iterdir())
    assert drawn == ["finetune_sta.png", "finetune_sta_clips.png"]
    assert load_tiny(config.out / "finetuned.safetensors").config == SMALL
    assert json.loads((config.out / "config.json").read_text())["weights"] == "teacher.safetensors"


def test_steps_on_one_batch_lower_its_loss(config, monkeypatch):
    tuner = Finetuner(config)
    batch = draw_batch(np.random.default_rng(0), config.stage, SMALL, drop_label=config.drop_label)
    monkeypatch.setattr("experiments.finetune_sta.finetuner.draw_batch", lambda *_, **__: batch)
    losses = [tuner.advance() for _ in range(25)]
    assert losses[-1] < 0.7 * losses[0]
    assert tuner.student().config == SMALL


def test_devices_change_no_flag_that_decides_the_numbers(config):
    spread = dataclasses.replace(config, data=2, seq=2, batch=2)
    assert spread.flags() == dataclasses.replace(config, batch=2).flags()
    assert spread.flags()["data"] == 1.0  # the weight of the loss's first term


def test_an_end_that_is_not_measured_is_refused(config):
    with pytest.raises(ValueError, match="steps=5 must be a multiple of save_every=25"):
        dataclasses.replace(config, steps=5)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (dict(save_every=0), "save_every=0 must be at least 1"),
        (dict(batch=0), "batch=0 must be at least 1"),
        (dict(digits=(10,)), "must be 0 to 9"),
        (dict(guidance=float("inf")), "guidance=inf must be a finite number"),
    ],
)
def test_bad_flags_are_refused(flags, message):
    with pytest.raises(ValueError, match=message):
        Config(**flags)
