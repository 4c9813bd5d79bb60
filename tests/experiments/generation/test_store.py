"""Interrupted runs on disk."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save

from experiments.generation.store import (
    Denoised,
    check_kept,
    load_latents,
    load_progress,
    save_latents,
    save_progress,
)
from models.pipelines import Progress

SETTINGS = {"seed": 3, "prompt": "a cat", "lora": ()}


def progress(step: int, value: float) -> Progress:
    x = jnp.full((2, 3), value)
    states = (
        (),
        {"lists": jnp.full((4,), 2, jnp.int32), "searched": jnp.asarray(value > 1)},
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


def test_replaced_files_are_refused_by_name_and_long_values_cut_short(tmp_path):
    path = tmp_path / "run.safetensors"
    save_progress(
        path, progress(2, 1.5), SETTINGS | {"vae/config.json": "sha256 12", "a": "x" * 99}
    )
    with pytest.raises(
        ValueError, match=r"vae/config\.json: 'sha256 12' there, 'sha256 34' here"
    ) as e:
        check_kept(path, SETTINGS | {"vae/config.json": "sha256 34", "a": "y" * 99})
    assert re.search(r"a: 'x{59}\.\.\. \(sha256 \w{8}\) there, 'y{59}\.\.\.", str(e.value))
    with pytest.raises(ValueError, match=r"vae/config\.json: 'sha256 12' there, None here"):
        check_kept(path, SETTINGS | {"a": "x" * 99})


@pytest.mark.parametrize(
    "load",
    [
        lambda path: load_progress(path, progress(0, 0.0), SETTINGS),
        lambda path: load_latents(path, SETTINGS),
    ],
)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda whole: whole[:-4], "is damaged .*; remove it to start anew"),
        (lambda whole: b"", "is damaged"),
        (lambda whole: b"no safetensors", "is damaged"),
        (lambda whole: save({"x": np.zeros(2, np.float32)}, {"run": "{"}), "is damaged"),
        (lambda whole: save({"x": np.zeros(2, np.float32)}), "not the file of an interrupted run"),
        (
            lambda whole: save(
                {"x": np.zeros(2, np.float32)}, {"run": '{"step": 2, "settings": {}}'}
            ),
            r"another version of this program \(files of version 1, here 3\); go on with that one",
        ),
    ],
)
def test_what_is_not_a_run_of_this_version_is_refused(tmp_path, load, content, message):
    path = tmp_path / "run.safetensors"
    save_progress(path, progress(2, 1.5), SETTINGS)
    path.write_bytes(content(path.read_bytes()))
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        load(path)
    assert path.read_bytes() == before


def test_latents_are_kept_with_the_times_of_their_steps(tmp_path):
    path = tmp_path / "latents.safetensors"
    x = np.arange(6, dtype=np.float32).reshape(1, 6)
    save_latents(path, Denoised(x, [("dense", 0.5), ("reuse", 0.25)]), SETTINGS)
    back = load_latents(path, SETTINGS)
    np.testing.assert_array_equal(back.x, x)
    assert back.steps == [("dense", 0.5), ("reuse", 0.25)]
    with pytest.raises(ValueError, match="seed: 3 there, 4 here"):
        load_latents(path, SETTINGS | {"seed": 4})
    assert load_latents(tmp_path / "none", SETTINGS) is None
    assert [p.name for p in tmp_path.iterdir()] == ["latents.safetensors"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_not_saved(tmp_path, value):
    path = tmp_path / "run.safetensors"
    save_progress(path, progress(2, 1.5), SETTINGS)
    before = path.read_bytes()
    with pytest.raises(
        FloatingPointError, match=r"after step 4; \S+ holds the last steps before: try"
    ):
        save_progress(path, progress(4, value), SETTINGS)
    assert path.read_bytes() == before
    latents = tmp_path / "latents.safetensors"
    with pytest.raises(FloatingPointError, match="NaN or infinity at the end: try --dtype float32"):
        save_latents(latents, Denoised(np.full((1, 2), value, np.float32), []), SETTINGS)
    assert not latents.exists()


def test_other_shapes_are_refused(tmp_path):
    path = tmp_path / "run.safetensors"
    save_progress(path, progress(2, 1.5), SETTINGS)
    begin = Progress(
        0, jnp.zeros((5, 5)), *(getattr(progress(0, 0.0), n) for n in ("solver", "states"))
    )
    with pytest.raises(ValueError, match=r"float32\[2, 3\] where this run has float32\[5, 5\]"):
        load_progress(path, begin, SETTINGS)
