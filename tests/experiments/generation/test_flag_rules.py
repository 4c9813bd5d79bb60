"""Flags by themselves: no folder, no model."""

import subprocess
import sys
from pathlib import Path

import pytest

from experiments.generation.flag_rules import check_flags
from experiments.generation.generate_flags import Config

HERE = Path(__file__)
PROMPT = dict(model=HERE.parent, prompt=("a cat",))
DENSE = PROMPT | dict(attention="dense")
FILE = dict(model=HERE.parent, embeddings=HERE)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({}, r'no --prompt and no --embeddings; give one \("" is a prompt, too\)'),
        (PROMPT | dict(embeddings=HERE), "'a cat' and --embeddings .* contradict"),
        (FILE | dict(negative_prompt=""), "--negative-prompt '' cannot join --embeddings"),
        (DENSE | dict(compare=True), "which --attention is already"),
        (DENSE | dict(dense_steps=2), "--dense-steps says what stays dense of a sparse"),
        (DENSE | dict(dense_last_steps=0), "--dense-last-steps says"),
        (DENSE | dict(dense_layers=(0,)), "--dense-layers says"),
        (
            PROMPT | dict(shard_weights=True),
            "shard_weights=True shards weights over several devices",
        ),
        (FILE | dict(out=HERE), "is one of the files that are read; choose another"),
        (PROMPT | dict(steps=0), "steps=0 must be at least 1; 20 to 50 are usual"),
        (PROMPT | dict(frames=0), "frames=0 must be at least 1"),
        (PROMPT | dict(height=-16), "height=-16 must be at least 1"),
        (PROMPT | dict(save_every=-1), "save_every=-1 must be at least 0 steps; 0 saves the end"),
        (PROMPT | dict(cfg=0), "cfg=0 must be at least 1, a number of devices"),
        (PROMPT | dict(seq=0), "seq=0 must be at least 1"),
        (PROMPT | dict(attention="sta", dense_steps=-1), "dense_steps=-1 must be at least 0"),
        (PROMPT | dict(seed=(-1,)), r"seed=-1 must lie in 0\.\.4294967295"),
        (PROMPT | dict(seed=(2**32,)), "seed=4294967296 must lie in"),
        (PROMPT | dict(seed=(1, 2, 1)), r"seed=\(1, 2, 1\) names one twice"),
        *[
            (PROMPT | {name: value}, rf"{name}={value} must be a finite number above 0")
            for name in ("shift", "memory_gib")
            for value in (0.0, -1.0, float("nan"), float("inf"))
        ],
        *[
            (PROMPT | dict(guidance=value), f"guidance={value} must be a finite number from 0 on")
            for value in (-0.1, float("nan"), float("inf"))
        ],
    ],
)
def test_what_cannot_be_is_refused(flags, message):
    with pytest.raises(ValueError, match=message):
        check_flags(Config(**{"model": HERE.parent} | flags))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (PROMPT | dict(model=Path("nowhere")), "no folder nowhere; give a checkpoint"),
        (PROMPT | dict(image=Path("x.png")), r"--image x\.png is not there"),
        (FILE | dict(embeddings=HERE.parent), "--embeddings .* is a folder, not a file"),
        (PROMPT | dict(latents=Path("x.npz")), r"--latents x\.npz is not there"),
        (PROMPT | dict(lora=("x.safetensors:0.5",)), r"no file x\.safetensors"),
    ],
)
def test_what_is_not_there_is_refused(flags, message):
    with pytest.raises(FileNotFoundError, match=message):
        check_flags(Config(**flags))


def test_flags_are_checked_without_jax():
    code = "import sys, experiments.generate; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "flags",
    [
        PROMPT,
        FILE,
        PROMPT | dict(prompt=("",)),
        PROMPT | dict(prompt=("a", "b"), seed=(0, 2**32 - 1)),
        PROMPT | dict(guidance=0.0, negative_prompt="blurred"),
        PROMPT | dict(attention="sta", compare=True, dense_steps=0, dense_layers=(0,)),
        PROMPT | dict(save_every=0, memory_gib=0.5, cfg=2, seq=2, shard_weights=True),
    ],
)
def test_what_can_be_is_not(flags):
    assert check_flags(Config(**flags)) == []


@pytest.mark.parametrize(
    ("flags", "warning"),
    [
        (PROMPT | dict(lora_scale=0.5), "--lora-scale 0.5 has no effect without --lora"),
        (PROMPT | dict(image_fit="pad"), "--image-fit pad has no effect without --image"),
        (FILE | dict(text_dtype="float32"), "--text-dtype float32 has no effect: --embeddings"),
    ],
)
def test_what_has_no_effect_is_said(flags, warning):
    (said,) = check_flags(Config(**flags))
    assert said.startswith(warning)


def test_a_lora_of_scale_0_is_said_to_have_no_effect(tmp_path):
    path = tmp_path / "x.safetensors"
    path.touch()
    said = check_flags(Config(**PROMPT, lora=(f"{path}:0", f"{path}:1")))
    assert said == [f"--lora {path} has no effect: its scale is 0"]
