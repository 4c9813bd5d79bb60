"""Interrupted runs on disk."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.generation.store import load_progress, save_progress
from models.pipelines import Progress

SETTINGS = {"seed": 3, "prompt": "a cat", "lora": []}


def progress(step: int, value: float) -> Progress:
    x = jnp.full((2, 3), value)
    states = (
        (),
        {"lists": jnp.full((4,), int(value), jnp.int32), "searched": jnp.asarray(value > 1)},
    )
    return Progress(step, x, (jnp.full((2, 3), value, jnp.bfloat16),), states)


def test_a_run_comes_back_with_every_array(tmp_path):
    path = tmp_path / "run.safetensors"
    save_progress(path, progress(2, 1.5), SETTINGS)
    save_progress(path, progress(4, 2.5), SETTINGS)
    back = load_progress(path, progress(0, 0.0), SETTINGS)
    assert back.step == 4
    want = progress(4, 2.5)
    jax.tree.map(
        np.testing.assert_array_equal,
        (back.x, back.solver, back.states),
        (want.x, want.solver, want.states),
    )
    dtypes = [leaf.dtype for leaf in jax.tree.leaves((back.solver, back.states))]
    assert dtypes == [jnp.bfloat16, jnp.int32, bool]
    assert [p.name for p in tmp_path.iterdir()] == ["run.safetensors"]


def test_without_a_file_a_run_begins(tmp_path):
    begin = progress(0, 0.0)
    assert load_progress(tmp_path / "run.safetensors", begin, SETTINGS) is begin


def test_other_settings_are_refused_by_name(tmp_path):
    path = tmp_path / "run.safetensors"
    save_progress(path, progress(2, 1.5), SETTINGS)
    with pytest.raises(ValueError, match=r"prompt: 'a cat' there, 'a dog' here.*remove the file"):
        load_progress(path, progress(0, 0.0), SETTINGS | {"prompt": "a dog"})


def test_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "run.safetensors"
    save_progress(path, progress(2, 1.5), SETTINGS)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match="is damaged"):
        load_progress(path, progress(0, 0.0), SETTINGS)


def test_other_shapes_are_refused(tmp_path):
    path = tmp_path / "run.safetensors"
    save_progress(path, progress(2, 1.5), SETTINGS)
    begin = Progress(
        0, jnp.zeros((5, 5)), *(getattr(progress(0, 0.0), n) for n in ("solver", "states"))
    )
    with pytest.raises(ValueError, match=r"float32\[2, 3\] where this run has float32\[5, 5\]"):
        load_progress(path, begin, SETTINGS)
