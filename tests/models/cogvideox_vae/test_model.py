from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.cogvideox_vae import PRESETS, CogVideoXVAE, Tile
from models.keys import checkpoint_slots
from tests import tolerances
from tests.models.parity import FOLDER, arrays, assert_close

from .tiny import DECODE, FULL, SMALL, build, vae


@pytest.mark.parametrize("preset", PRESETS)
def test_names_and_shapes_at_full_size(preset):
    lines = Path(FOLDER, "cogvideox-vae_tensors.txt").read_text().splitlines()
    want = {name: tuple(map(int, shape.split("x"))) for name, shape in map(str.split, lines)}
    model = nnx.eval_shape(
        lambda: CogVideoXVAE(PRESETS[preset], dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    )
    slots = checkpoint_slots(model, CogVideoXVAE.KEYS)
    assert {name: slot.shape for name, slot in slots.items()} == want
    assert sum(np.prod(shape) for shape in want.values()) == 215_583_907
    assert all(slot.parameter.dtype == jnp.bfloat16 for slot in slots.values())


def test_chunks_match_diffusers_and_are_bit_equal_to_the_whole():
    case = arrays(FULL, "chunked")
    model, z = vae(FULL), jnp.asarray(case["z"])
    before = jax.tree.map(np.array, nnx.to_pure_dict(nnx.state(model)))
    video = model.decode(z)
    assert_close(video, case["decoded"], DECODE[FULL], "17 frames in 9 + 8")
    parts = [np.asarray(part) for part in model.decode_chunks(z)]
    assert [part.shape for part in parts] == [(1, 3, 9, 32, 16), (1, 3, 8, 32, 16)]
    np.testing.assert_array_equal(np.concatenate(parts, 2), video)
    after = nnx.to_pure_dict(nnx.state(model))
    jax.tree.map(np.testing.assert_array_equal, before, after)


def test_value_and_gradient_under_jit_match_diffusers():
    case = arrays(SMALL, "decode_even")

    @jax.jit
    def loss(model, z):
        video, pullback = jax.vjp(model.decode, z)
        return video, *pullback(jnp.asarray(case["cotangent"]))

    video, gradient = loss(vae(SMALL), jnp.asarray(case["z"]))
    assert_close(video, case["decoded"], DECODE[SMALL], "16 frames of 4 latents")
    assert_close(
        gradient, case["grad_z"], 3 * DECODE[SMALL], "gradient with respect to the latents"
    )


def test_bfloat16_errs_at_most_twice_as_much_as_torch():
    # torch in bfloat16 against float64: decoding 0.108 at most, 0.0104 rms; encoding 0.0197, 0.0057.
    # Ours: 0.130, 0.0113; 0.0240, 0.0071.
    model = vae(FULL, jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(model))} == {np.dtype(jnp.bfloat16)}
    latents, clip = arrays(FULL, "a"), arrays(FULL, "enc")
    video = model.decode(jnp.asarray(latents["z"]))
    mean, _ = model.encode(jnp.asarray(clip["video"]).astype(jnp.bfloat16))
    for got, want, most, rms in (
        (video, latents["decoded"], 0.108, 0.0104),
        (mean, clip["mean"], 0.0197, 0.0057),
    ):
        assert got.dtype == jnp.bfloat16
        error = np.asarray(got, np.float32) - want
        tolerances.assert_of_another(error, most, rms, "bfloat16")


def test_latents_are_scaled_as_the_pipelines_do():
    z = jnp.asarray([1.0, -2.0])
    plain, inverted = vae(FULL), vae(SMALL)
    np.testing.assert_allclose(plain.normalize(z), z * 1.15258426, rtol=1e-6)
    np.testing.assert_allclose(plain.denormalize(plain.normalize(z)), z, rtol=1e-6)
    np.testing.assert_allclose(inverted.normalize(z), z / 0.7, rtol=1e-6)
    np.testing.assert_allclose(inverted.denormalize(z), z / 0.7, rtol=1e-6)
    assert plain.normalize(z.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_log_variance_is_clipped():
    model = build(SMALL)
    bias = model.encoder.conv_out.conv.bias
    bias[...] = jnp.asarray([0.0, 0, 0, 0, 1e3, -1e3, 0, 0])
    _, logvar = model.encode(jnp.zeros((1, 3, 1, 4, 4)))
    assert logvar[0, :2, 0, 0, 0].tolist() == [20.0, -30.0]


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((16, 3, 4, 6), r"z of shape \(16, 3, 4, 6\) must be \[B, 16, T, h, w\]; add an axis"),
        ((1, 3, 16, 4, 6), r"\[B, 16, T, h, w\]; it has 3 channels"),
        ((1, 16, 0, 4, 6), r"z of shape \(1, 16, 0, 4, 6\) .* at least one entry"),
        ((1, 16, 2, 0, 6), "at least one entry"),
    ],
)
def test_latents_that_cannot_be_decoded(shape, message):
    for decode in (vae(FULL).decode, vae(FULL).decode_chunks):
        with pytest.raises(ValueError, match=message):
            decode(jnp.zeros(shape))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 9, 32, 24), r"\[B, 3, frames, H, W\]; add an axis of one"),
        ((1, 9, 3, 32, 24), "it has 9 channels"),
        ((1, 3, 0, 32, 24), "at least one entry"),
        (
            (1, 3, 3, 32, 24),
            r"3 frames, .* take 4 k or 4 k \+ 1; cut it to 1 or extend it to 4",
        ),
        ((1, 3, 10, 32, 24), r"10 frames, .* cut it to 9 or extend it to 12"),
        ((1, 3, 9, 30, 24), "30 x 24 pixels, and both must be multiples of 8; crop, pad"),
    ],
)
def test_videos_that_cannot_be_encoded(shape, message):
    with pytest.raises(ValueError, match=message):
        vae(FULL).encode(jnp.zeros(shape))


def test_integers_and_tiles_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match=r"video is uint8 .* scale pixels to \[-1, 1\] first"):
        vae(FULL).encode(jnp.zeros((1, 3, 1, 8, 8), jnp.uint8))
    with pytest.raises(ValueError, match=r"height=17 .* must be multiples of 8"):
        vae(FULL).decode(jnp.zeros((1, 16, 1, 4, 4)), tile=Tile(height=17, stride_height=8))
