"""The whole model against diffusers' numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.hunyuan_video_vae import PRESETS, HunyuanVideoVAE, HunyuanVideoVAEConfig, Tile
from models.hunyuan_video_vae import model as model_module
from models.keys import checkpoint_slots
from models.tiling import Cut
from tests import tolerances
from tests.models import parity

from . import tiny


@functools.cache
def make(dtype=jnp.float32):
    return tiny.load(dtype)


decode = jax.jit(lambda vae, z: vae.decode(z))
encode = jax.jit(lambda vae, video: vae.encode(video))


def test_decode_agrees_with_diffusers_and_leaves_the_module_alone():
    vae, case = make(), parity.arrays("vae_hunyuan", "a")
    before = jax.tree.map(np.asarray, nnx.state(vae))
    parity.assert_close(decode(vae, case["z"]), case["decoded"], tiny.DECODE, "decoded")
    jax.tree.map(np.testing.assert_array_equal, before, nnx.state(vae))


def test_encode_agrees_with_diffusers():
    case = parity.arrays("vae_hunyuan", "enc")
    mean, logvar = encode(make(), case["video"])
    parity.assert_close(mean, case["mean"], tiny.ENCODE, "mean")
    parity.assert_close(logvar, case["logvar"], tiny.ENCODE, "logvar")


def test_gradient_agrees_with_diffusers():
    case = parity.arrays("vae_hunyuan", "a")
    cotangent, want = case["decoded"], parity.arrays("vae_hunyuan_tiled", "a")["grad_z"]
    grad = jax.jit(jax.grad(lambda z, vae: (vae.decode(z) * cotangent).sum()))
    parity.assert_close(grad(case["z"], make()), want, 3 * tiny.DECODE, "gradient of z")


def test_default_tile_is_that_of_diffusers():
    assert make().default_tile == Tile(
        frames=16,
        height=256,
        width=256,
        stride_frames=12,
        stride_height=192,
        stride_width=192,
    )


def test_chunks_without_a_tile_are_those_of_the_default_one(monkeypatch):
    monkeypatch.setattr(model_module, "in_chunks", lambda run, z, cuts: cuts)
    z = np.zeros((1, 16, 9, 2, 2), np.float32)
    frames, *_ = make().decode_chunks(z)
    assert frames == Cut(size=4, stride=3, overlap=4, kept=12)
    assert make().decode_chunks(z) == make().decode_chunks(z, tile=make().default_tile)


def test_bfloat16_errs_as_much_as_torch_in_bfloat16():
    # torch in bfloat16 errs by at most 7.5e-2 (1.15e-2 in the mean square) on the same decode, and by
    # 2.3e-2 and 3.1e-2 on mean and log variance.
    case, vae = parity.arrays("vae_hunyuan", "a"), make(jnp.bfloat16)
    out = decode(vae, case["z"])
    assert out.dtype == jnp.bfloat16
    error = np.asarray(out, np.float32) - case["decoded"]
    assert np.abs(error).max() > 1e-4
    tolerances.assert_of_another(error, 7.5e-2, 1.15e-2, "decoded", times=1.5)
    case = parity.arrays("vae_hunyuan", "enc")
    for got, name, theirs in zip(
        encode(vae, case["video"]), ("mean", "logvar"), (2.3e-2, 3.1e-2), strict=True
    ):
        assert got.dtype == jnp.bfloat16
        got = np.asarray(got, np.float32)
        tolerances.assert_within(got, case[name], 2 * theirs, name, tolerances.HALF)


def test_log_variance_is_clamped():
    vae = nnx.merge(*nnx.split(make()))
    vae.quant_conv.bias[...] = jnp.full((32,), 100.0, jnp.float32)
    _, logvar = encode(vae, np.zeros((1, 3, 9, 32, 24), np.float32))
    np.testing.assert_array_equal(logvar, 20.0)


def test_latents_are_normalised_by_the_scaling_factor():
    vae, z = make(), jnp.full((1, 16, 1, 2, 2), 2.0)
    np.testing.assert_allclose(vae.normalize(z), 2 * 0.476986, rtol=1e-6)
    np.testing.assert_allclose(vae.denormalize(vae.normalize(z)), z, rtol=1e-6)
    assert vae.normalize(z.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_names_and_shapes_at_full_size_are_those_of_diffusers():
    config = PRESETS["hunyuanvideo-vae"]
    vae = nnx.eval_shape(lambda: HunyuanVideoVAE(config, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)))
    lines = (parity.FOLDER / "hunyuanvideo-vae_tensors.txt").read_text().splitlines()
    slots = checkpoint_slots(vae, HunyuanVideoVAE.KEYS)
    assert sorted(f"{name} {'x'.join(map(str, s.shape))}" for name, s in slots.items()) == lines
    assert {slot.parameter.dtype for slot in slots.values()} == {jnp.dtype(jnp.bfloat16)}
    assert HunyuanVideoVAE.CLASS_NAME == "AutoencoderKLHunyuanVideo"
    assert HunyuanVideoVAE.config_class is HunyuanVideoVAEConfig


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((16, 3, 4, 6), r"z of shape \(16, 3, 4, 6\) must be \[B, 16, T, h, w\]; add an axis"),
        ((1, 3, 16, 4, 6), r"\[B, 16, T, h, w\]; it has 3 channels"),
        ((1, 16, 0, 4, 6), "every axis must hold at least one entry"),
    ],
)
def test_latents_that_do_not_fit_are_refused_at_the_call(shape, message):
    z = np.zeros(shape, np.float32)
    for call in (make().decode, make().decode_chunks):
        with pytest.raises(ValueError, match=message):
            call(z)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 9, 32, 24), r"\[B, 3, frames, H, W\]; add an axis of one"),
        ((1, 16, 9, 32, 24), "it has 16 channels"),
        ((1, 3, 0, 32, 24), "every axis must hold at least one entry"),
        (
            (1, 3, 16, 32, 24),
            r"16 frames, and whole latents take 4 k \+ 1; cut it to 13 or extend it to 17",
        ),
        ((1, 3, 2, 32, 24), "cut it to 1 or extend it to 5"),
        ((1, 3, 9, 30, 24), "30 x 24 pixels, and both must be multiples of 8; crop"),
    ],
)
def test_videos_that_do_not_fit_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        make().encode(np.zeros(shape, np.float32))


def test_tiles_that_cut_a_latent_are_refused_at_the_call():
    with pytest.raises(
        ValueError, match="height=100 and stride_height=96 of a tile must be multiples of 8"
    ):
        make().decode_chunks(
            np.zeros((1, 16, 1, 2, 2), np.float32), tile=Tile(height=100, stride_height=96)
        )
