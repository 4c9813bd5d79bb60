import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models import layers
from models.rope import rope_table
from models.wan.model import ROPE_THETA
from sparsevdit_jax import KernelOptions, Phase, SparseAttention, StepContext, VideoGrid
from sparsevdit_jax.patterns import AdaSpa, Dense, Diagonal, SlidingTile
from tests import tolerances
from tests.models import parity
from tests.models.wan.tiny_models import (
    SMALL,
    build,
    load,
    roundings,
    run,
    run_pattern,
    small_inputs,
)

CASES = [("wan", "a"), ("wan", "b"), ("wan", "tokent"), ("wan_i2v", "a")]


@functools.cache
def load_case(name, case):
    return parity.arrays(name, case)


@pytest.mark.parametrize(("name", "case"), CASES)
def test_output_is_diffusers(name, case):
    model, arrays = load(name), load_case(name, case)
    before = nnx.to_pure_dict(nnx.state(model))
    inputs = parity.inputs(arrays)
    out = run(model, inputs)
    assert out.dtype == jnp.float32
    more = parity.of_angle(inputs["timestep"])
    parity.assert_close(
        out, arrays["out"], roundings(model, inputs), "out, from the timestep", more
    )
    jax.tree.map(np.testing.assert_array_equal, before, nnx.to_pure_dict(nnx.state(model)))


@pytest.mark.parametrize(("name", "case"), CASES)
def test_every_part_is_diffusers(name, case):
    model, arrays = load(name), load_case(name, case)
    taps = {k.removeprefix("tap/"): v for k, v in arrays.items() if k.startswith("tap/")}
    inputs = parity.inputs(arrays)
    wave = layers.sinusoidal_embedding(inputs["timestep"].reshape(-1), model.config.freq_dim)
    more = parity.of_angle(inputs["timestep"])
    parity.assert_close(wave, taps.pop("condition_embedder.timesteps_proj"), 3, "wave", more)
    grid = model.grid(inputs["hidden_states"].shape)
    rope = rope_table(grid.shape, model.config.head_dim, theta=ROPE_THETA)
    for i, part in enumerate(rope):
        if f"rope.out{i}" in taps:
            doubled = np.repeat(part, 2, -1)[None, :, None]
            np.testing.assert_array_equal(doubled, taps.pop(f"rope.out{i}"))

    embedder = "condition_embedder"
    recorded = [taps.pop(f"{embedder}.out{i}", None) for i in range(4)]
    conditions = jax.jit(lambda part, *args: part(*args))(
        model.condition_embedder,
        inputs["timestep"],
        inputs["encoder_hidden_states"],
        inputs.get("encoder_hidden_states_image"),
    )
    for i, (got, want) in enumerate(zip(conditions, recorded, strict=True)):
        assert (got is None) == (want is None)
        if got is not None:
            # Norm and GELU or SiLU, and products over at most three times the width (out1 has six parts).
            n = 20 + 3 * model.config.num_heads * model.config.head_dim / 2
            name = f"{embedder}.out{i}"
            parity.assert_close(got, want, n, name, more if i < 2 else 0.0)

    replace = {embedder: tuple(part if part is None else jnp.asarray(part) for part in recorded)}
    recorder = parity.Recorder(model, model.KEYS, replace)

    def loss(hidden_states):
        with recorder.recording():
            out = model(**inputs | {"hidden_states": hidden_states}).sample
        outputs = {tap: recorder.outputs[tap] for tap in taps}
        return (out * arrays["cotangent"]).sum(), (out, outputs)

    gradient, (out, outputs) = jax.jit(jax.grad(loss, has_aux=True))(inputs["hidden_states"])
    if "patch_embedding" in taps:
        want = taps.pop("patch_embedding")
        got = outputs["patch_embedding"].swapaxes(1, 2).reshape(want.shape)
        parity.assert_close(got, want, roundings(model, inputs, 0), "patch_embedding")
    for tap, want in taps.items():  # in the order of execution
        got = outputs[tap][0] if tap.startswith("blocks") else outputs[tap]
        block = int(tap.partition(".")[2]) + 1 if tap.startswith("blocks") else None
        parity.assert_close(got, want, roundings(model, inputs, block), tap)
    n = roundings(model, inputs)
    parity.assert_close(out, arrays["out"], n, "out, with the recorded time embedding")
    parity.assert_close(gradient, arrays["grad_hidden_states"], 3 * n, "gradient")


@pytest.mark.parametrize(
    ("name", "case", "largest", "rms"),
    # What diffusers itself errs in bfloat16 (float32 parts kept) against its float32.
    [
        ("wan", "a", 3.54e-2, 8.09e-3),
        ("wan", "tokent", 2.83e-2, 8.14e-3),
        ("wan_i2v", "a", 3.26e-2, 7.30e-3),
    ],
)
def test_bfloat16_errs_no_more_than_twice_as_much_as_diffusers(name, case, largest, rms):
    model, arrays = load(name, jnp.bfloat16), load_case(name, case)
    inputs = parity.inputs(arrays)
    inputs = {k: v if k == "timestep" else v.astype(jnp.bfloat16) for k, v in inputs.items()}
    out = run(model, inputs)
    assert out.dtype == jnp.bfloat16
    error = np.asarray(out.astype(jnp.float32)) - arrays["out"]
    tolerances.assert_of_another(error, largest, rms, f"{name}, {case}")
    assert np.sqrt((error**2).mean()) > 1e-3  # it does round


def test_a_checkpoint_stored_in_bfloat16_computes_like_one_in_float32():
    """Float32 parts may hold bfloat16 values; they still compute in float32."""
    inputs = small_inputs((2, 4, 4))
    stored, rounded = (build(SMALL, jnp.bfloat16) for _ in range(2))
    for model, is_stored in ((stored, True), (rounded, False)):
        for _, parameter in nnx.to_flat_state(nnx.state(model)):
            value = np.asarray(parameter[...]).astype(jnp.bfloat16)
            value = value if is_stored else value.astype(parameter[...].dtype)
            parameter.set_value(jnp.asarray(value))
    assert stored.scale_shift_table[...].dtype == jnp.bfloat16
    assert rounded.scale_shift_table[...].dtype == jnp.float32
    np.testing.assert_array_equal(run(stored, inputs), run(rounded, inputs))


@pytest.mark.filterwarnings("ignore:SlidingTile window")
@pytest.mark.parametrize("case", ["a", "b"])  # tokens 4x4x4, and 3x3x5
def test_full_windows_and_dense_phases_equal_no_pattern(case):
    model, arrays = load("wan"), load_case("wan", case)
    inputs = parity.inputs(arrays)
    batch, dense = len(arrays["out"]), run(model, inputs)
    full = SlidingTile(tile=(2, 2, 2), window=(3, 3, 3))
    sparse = SlidingTile(tile=(2, 2, 2), window=(1, 1, 1))
    out, states = run_pattern(model, inputs, full, full, batch=batch)
    n = roundings(model, inputs)
    tolerances.assert_rounding_apart(out, dense, n, "full windows")
    assert states == ((), ())
    out, _ = run_pattern(model, inputs, sparse, sparse, phase=Phase.DENSE, batch=batch)
    tolerances.assert_rounding_apart(out, dense, n, "dense phase")
    out, _ = run_pattern(model, inputs, sparse, full, batch=batch)
    assert float(jnp.abs(out - dense).max()) > 1e-2


def test_each_layer_has_its_own_pattern_and_state():
    model, inputs = load("wan"), parity.inputs(load_case("wan", "a"))
    patterns = AdaSpa(density=0.25, block=16), Diagonal(density=0.5, block=16)
    out, states = run_pattern(model, inputs, *patterns, phase=Phase.FIRST_SEARCH)
    assert len(states) == 2
    again, after = run_pattern(model, inputs, *patterns, states=states)
    assert jax.tree.structure(after) == jax.tree.structure(states)
    assert jax.tree.leaves(after[0])
    assert (
        float(jnp.abs(again - out).max()) > 1e-3
    )  # the search itself is exact, its blocks are not


def test_remat_changes_memory_only():
    model, inputs = build(SMALL), small_inputs((3, 6, 10))
    attention = SparseAttention.uniform(SlidingTile(tile=(2, 2, 2), window=(1, 1, 1)), 1)
    ctx = StepContext(model.grid(inputs["hidden_states"].shape), kernel=KernelOptions("reference"))

    @jax.jit(static_argnames="remat")
    def gradient(model, hidden_states, *, remat):
        def loss(hidden_states):
            arguments = inputs | {"hidden_states": hidden_states}
            out = model(**arguments, attention=attention, states=((),), ctx=ctx, remat=remat)
            return (out.sample**2).mean()

        return jax.grad(loss)(hidden_states)

    plain, remat = (gradient(model, inputs["hidden_states"], remat=r) for r in (False, True))
    assert float(jnp.abs(plain).max()) > 1e-4
    n = 3 * roundings(model, inputs)
    tolerances.assert_rounding_apart(remat, plain, n, "gradient with remat")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_states": (2, 5, 2, 4, 4)}, r"\(2, 5, 2, 4, 4\); it must be \[batch, 4, frames"),
        ({"hidden_states": (2, 4, 4, 4)}, r"\(2, 4, 4, 4\); it must be \[batch, 4, frames"),
        (
            {"hidden_states": (2, 4, 2, 4, 5)},
            r"\(2, 4, 5\) pixels does not divide into patches of \(1, 2, 2\); pad or crop",
        ),
        (
            {"hidden_states": (2, 4, 2, 4, 2050)},
            r"tokens along its axes; none may have more than rope_max_seq_len=1024",
        ),
        ({"timestep": (1,)}, r"timestep has shape \(1,\); it must be \[2\] or \[2, 8\]"),
        ({"timestep": (2, 7)}, r"timestep has shape \(2, 7\); it must be \[2\] or \[2, 8\]"),
        ({"encoder_hidden_states": (2, 5, 9)}, r"\(2, 5, 9\); it must be \[2, tokens, 10\]"),
        ({"encoder_hidden_states": (1, 5, 10)}, r"\(1, 5, 10\); it must be \[2, tokens, 10\]"),
        ({"encoder_hidden_states_image": (2, 3, 6)}, "image_dim=None, but .* is given"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(change, message):
    model, inputs = build(SMALL), small_inputs((2, 4, 4))
    inputs |= {name: jnp.zeros(shape) for name, shape in change.items()}
    with pytest.raises(ValueError, match=message):
        model(**inputs)


def test_images_that_do_not_fit_are_refused():
    model, inputs = load("wan_i2v"), parity.inputs(load_case("wan_i2v", "a"))
    image = inputs.pop("encoder_hidden_states_image")
    with pytest.raises(ValueError, match=r"image_dim=40, but .* is absent"):
        model(**inputs)
    with pytest.raises(ValueError, match=r"\(1, 17, 39\); it must be \[1, tokens, 40\]"):
        model(**inputs, encoder_hidden_states_image=image[..., :39])
    with pytest.raises(ValueError, match=r"\(17, 40\); it must be \[1, tokens, 40\]"):
        model(**inputs, encoder_hidden_states_image=image[0])
    inputs["encoder_hidden_states"] = inputs["encoder_hidden_states"][:, :511]
    with pytest.raises(ValueError, match="511 tokens; beside an image it must have 512: pad it"):
        model(**inputs, encoder_hidden_states_image=image)


def test_attention_made_for_something_else_is_refused():
    model, inputs = load("wan"), parity.inputs(load_case("wan", "a"))
    grid = model.grid(inputs["hidden_states"].shape)
    with pytest.raises(ValueError, match="needs ctx="):
        model(**inputs, attention=SparseAttention.uniform(Dense(), 2), states=((), ()))
    with pytest.raises(ValueError, match="for 3 layers, but the model's layer count is 2"):
        model(**inputs, attention=SparseAttention.uniform(Dense(), 3), ctx=StepContext(grid))
    other = StepContext(VideoGrid(1, 1, 1))
    with pytest.raises(ValueError, match="but this input has"):
        model(**inputs, attention=SparseAttention.uniform(Dense(), 2), states=((), ()), ctx=other)
