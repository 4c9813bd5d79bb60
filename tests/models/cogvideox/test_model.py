import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.layers import sinusoidal_embedding
from sparsevdit_jax import VideoGrid
from tests import tolerances
from tests.models import parity
from tests.models.cogvideox.tiny_models import CASES, QUICKLY, inputs, load, roundings, run

# (max, mean) of |error| of diffusers itself under bfloat16 against float32, measured with torch 2.13 on CPU.
DIFFUSERS_BFLOAT16 = {
    ("cogvideox_2b", "a"): (3.04e-2, 6.24e-3),
    ("cogvideox_5b", "a"): (3.30e-2, 6.36e-3),
    ("cogvideox_15", "b"): (3.18e-2, 6.45e-3),
    ("cogvideox_5b_i2v", "a"): (1.78e-2, 5.04e-3),
    ("cogvideox_15_i2v", "a"): (2.61e-2, 6.14e-3),
}


def recorded_embeddings(case):
    """torch's own time embeddings, by the name of the module that they replace."""
    names = "time_embedding", "ofs_embedding"
    return {name: jnp.asarray(case[f"tap/{name}"]) for name in names if f"tap/{name}" in case}


@pytest.mark.parametrize(("name", "letter"), CASES)
def test_output_from_the_timestep(name, letter):
    case = parity.arrays(name, letter)
    model, given = load(name), inputs(case)
    out = run(model, given)
    assert out.dtype == jnp.float32
    more = parity.of_angle(given["timestep"])
    parity.assert_close(out, case["out"], roundings(model, given), name, more)


@pytest.mark.parametrize(("name", "letter"), CASES)
def test_every_part_with_the_recorded_time_embedding(name, letter):
    case, model = parity.arrays(name, letter), load(name)
    given, embeddings = inputs(case), recorded_embeddings(case)
    recorder = parity.Recorder(model, model.KEYS, embeddings)
    taps = [key.removeprefix("tap/").partition(".out") for key in case if key.startswith("tap/")]
    taps = [tap for tap in taps if tap[0] not in ("time_proj", "ofs_proj", *embeddings)]

    def weighed(x):
        with recorder.recording():
            out = model(**given | {"hidden_states": x}).sample
        recorded = {module: recorder.outputs[module] for module, _, _ in taps}
        return (out * case["cotangent"]).sum(), (out, recorded)

    step = jax.jit(jax.grad(weighed, has_aux=True), compiler_options=QUICKLY)
    gradient, (out, recorded) = step(given["hidden_states"])
    text = given["encoder_hidden_states"].shape[1]
    for module, dot, part in taps:
        got = recorded[module]
        if part:  # a block returns [text, video] and its state
            got = got[0][:, :text] if part == "1" else got[0][:, text:]
        block = 0 if module == "patch_embed" else None
        if module.startswith("transformer_blocks"):
            block = int(module.partition(".")[2]) + 1
        want, n = case[f"tap/{module}{dot}{part}"], roundings(model, given, block)
        parity.assert_close(got, want, n, module + dot + part)
    assert len(taps) == (0 if name == "cogvideox_15" else 3 + 2 * model.config.num_layers)
    n = roundings(model, given)
    parity.assert_close(out, case["out"], n, "out")
    parity.assert_close(gradient, case["grad_hidden_states"], 3 * n, "gradient")


@pytest.mark.parametrize(("name", "letter"), CASES[::4])
def test_time_embedding(name, letter):
    # Apart from the rest: its last bits are another's, see tests/golden/parity.
    case, model = parity.arrays(name, letter), load(name)
    sinusoid = sinusoidal_embedding(jnp.asarray(case["in/timestep"]), model.config.dim)
    more = parity.of_angle(case["in/timestep"])
    parity.assert_close(sinusoid, case["tap/time_proj"], 3, "time_proj", more)
    n = 3 + model.config.dim  # SiLU between two products
    time = model.time_embedding(sinusoid)
    parity.assert_close(time, case["tap/time_embedding"], n, "time", more)
    if "in/ofs" in case:
        sinusoid = sinusoidal_embedding(jnp.asarray(case["in/ofs"]), model.config.ofs_embed_dim)
        got = model.ofs_embedding(sinusoid)
        more = parity.of_angle(case["in/ofs"])
        parity.assert_close(got, case["tap/ofs_embedding"], n, "ofs", more)


@pytest.mark.parametrize(("name", "letter"), DIFFUSERS_BFLOAT16)
def test_bfloat16_errs_as_diffusers_does(name, letter):
    case = parity.arrays(name, letter)
    out = run(load(name, jnp.bfloat16), inputs(case))
    assert out.dtype == jnp.bfloat16
    error = np.abs(np.asarray(out, np.float32) - case["out"])
    most, mean = DIFFUSERS_BFLOAT16[name, letter]
    # The mean says whether the same things are rounded; the largest of some thousand errors is more by chance.
    tolerances.assert_at_most(error.mean(), 1.25 * mean, "mean", tolerances.HALF)
    tolerances.assert_at_most(error.max(), 2 * most, "largest", tolerances.HALF)


def test_parameters_stored_in_another_dtype():
    # A bfloat16 checkpoint in a float32 model computes in float32: the weights are rounded, nothing else.
    case = parity.arrays("cogvideox_5b_i2v", "a")
    model = load("cogvideox_5b_i2v")
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16), model)
    out = run(rounded, inputs(case))
    assert out.dtype == jnp.float32
    widened = jax.tree.map(lambda x: x.astype(jnp.float32), rounded)
    want, n = run(widened, inputs(case)), roundings(model, inputs(case))
    tolerances.assert_rounding_apart(out, want, n, "widened when stored or when used")


def test_a_call_changes_no_parameter():
    model, case = load("cogvideox_5b_i2v"), parity.arrays("cogvideox_5b_i2v", "a")
    before = jax.tree.map(np.array, nnx.state(model))
    model(**inputs(case))
    jax.tree.map(np.testing.assert_array_equal, before, nnx.state(model))


def test_every_parameter_has_a_gradient_and_remat_the_same():
    case = parity.arrays("cogvideox_5b_i2v", "a")

    @jax.jit(static_argnames="remat", compiler_options=QUICKLY)
    @jax.grad
    def gradient(model, remat):
        return (model(**inputs(case), remat=remat).sample * case["cotangent"]).sum()

    model = load("cogvideox_5b_i2v")
    plain, rematerialised = (jax.tree.leaves(gradient(model, remat=r)) for r in (False, True))
    # Some are what remains of larger ones that cancel, so all may err as the largest.
    n, largest = 3 * roundings(model, inputs(case)), max(float(jnp.abs(a).max()) for a in plain)
    for a, b in zip(plain, rematerialised, strict=True):
        assert float(jnp.abs(a).max()) > 1e-6
        tolerances.assert_within(b, a, tolerances.rounding(n) * largest, "gradient with remat")


def test_grid_has_text_first():
    model = load("cogvideox_15")
    expected = VideoGrid(2, 4, 5, text_len=9, text_first=True)
    assert model.grid((2, 4, 16, 8, 10)) == expected
    assert model.grid((1, 4, 16, 8, 10), text_len=7) == dataclasses.replace(expected, text_len=7)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "cogvideox_5b",
            {"hidden_states": (2, 16, 4, 6, 10)},
            r"it must be \[batch, frames, 16, rows",
        ),
        (
            "cogvideox_5b",
            {"hidden_states": (2, 4, 16, 7, 10)},
            "7, 10. pixels does not divide into patches",
        ),
        (
            "cogvideox_15",
            {"hidden_states": (2, 5, 16, 8, 10)},
            "5, 8, 10. pixels does not divide.*; pad or crop it",
        ),
        (
            "cogvideox_5b",
            {"encoder_hidden_states": (1, 9, 40)},
            r"\(1, 9, 40\); it must be \[2, tokens, 40\]",
        ),
        (
            "cogvideox_5b",
            {"encoder_hidden_states": (2, 9, 41)},
            r"\(2, 9, 41\); it must be \[2, tokens, 40\]",
        ),
        ("cogvideox_5b", {"timestep": (1,)}, r"timestep has shape \(1,\); it must be \[2\]"),
        ("cogvideox_5b", {"timestep_cond": (2, 8)}, "timestep_cond must be None"),
        ("cogvideox_5b", {"ofs": (1,)}, "ofs_embed_dim=None; leave it out"),
        ("cogvideox_15_i2v", {"ofs": None}, "ofs_embed_dim=16; pass jnp.full"),
        ("cogvideox_15_i2v", {"ofs": (3,)}, r"ofs has shape \(3,\); it must be \[1\] or \[2\]"),
        ("cogvideox_5b", {"image_rotary_emb": None}, "is absent.*pass models.cogvideox.rotary_emb"),
        ("cogvideox_2b", {"image_rotary_emb": ((60, 32),) * 2}, "is given.*leave it out"),
        ("cogvideox_5b", {"image_rotary_emb": ((60, 16),) * 2}, "two arrays .60, 32. for"),
    ],
)
def test_what_does_not_fit_is_refused(name, change, message):
    def array(shape):
        if shape is None:
            return None
        is_pair = isinstance(shape[0], tuple)
        return tuple(map(array, shape)) if is_pair else jax.ShapeDtypeStruct(shape, jnp.float32)

    given = inputs(parity.arrays(name, "a")) | {k: array(v) for k, v in change.items()}
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda given: load(name)(**given), given)
