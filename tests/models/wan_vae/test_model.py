"""Streaming, tiles, gradients, dtypes, memory and errors, on a small model; parity: test_parity.py."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.wan_vae import Tile
from models.wan_vae import model as model_module
from tests.models.wan_vae.tiny import TWO_LEVELS, filled, numbered, wave

SMALL_TILE = Tile(height=8, width=4, stride_height=8, stride_width=2)


def latents(frames=3, size=(3, 4), batch=1):
    return wave((batch, 4, frames, *size), 1.3, 2.0)


@pytest.mark.bits
@pytest.mark.parametrize("tile", [None, SMALL_TILE], ids=["whole", "tiles"])
def test_chunks_are_the_video_bit_by_bit(tile):
    vae, z = numbered(TWO_LEVELS), latents(batch=2)
    video = np.asarray(vae.decode(z, tile=tile))
    assert video.shape == (2, 3, 5, 6, 8)
    chunks = [np.asarray(chunk) for chunk in vae.decode_chunks(z, tile=tile)]
    assert [chunk.shape[2] for chunk in chunks] == [1, 2, 2]
    np.testing.assert_array_equal(np.concatenate(chunks, 2), video)


def test_jit_and_batches():
    vae, z = numbered(TWO_LEVELS), latents(batch=2)
    video = np.asarray(vae.decode(z))
    np.testing.assert_array_equal(jax.jit(lambda vae, z: vae.decode(z))(vae, z), video)
    np.testing.assert_allclose(vae.decode(z[1:]), video[1:], atol=2e-6)


def test_a_picture_that_fits_a_tile_is_not_tiled():
    vae, z = numbered(TWO_LEVELS), latents()
    large = Tile(height=6, width=8, stride_height=4, stride_width=4)
    np.testing.assert_array_equal(vae.decode(z, tile=large), vae.decode(z))
    assert float(jnp.abs(vae.decode(z, tile=SMALL_TILE) - vae.decode(z)).max()) > 1e-3


def test_calls_leave_the_module_as_it_was():
    vae = numbered(TWO_LEVELS)
    before = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(vae)))
    fields = set(vars(vae))
    vae.encode(vae.decode(latents()))
    list(vae.decode_chunks(latents()))
    after = nnx.to_pure_dict(nnx.state(vae))
    jax.tree.map(np.testing.assert_array_equal, before, after)
    assert set(vars(vae)) == fields


def test_normalised_latents_have_the_statistics_removed():
    vae, z = numbered(TWO_LEVELS), latents()
    normal = vae.normalize(z)
    mean, std = (np.reshape(x, (1, 4, 1, 1, 1)) for x in ((0.1, -0.2, 0.3, 0.4), (2, 0.5, 1.5, 3)))
    np.testing.assert_allclose(normal, (np.asarray(z) - mean) / std, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(vae.denormalize(normal), z, atol=1e-6)
    assert vae.denormalize(z.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_remat_has_the_same_gradient_and_needs_less_memory():
    vae, z = numbered(TWO_LEVELS), latents(frames=12)
    video = wave((1, 3, 19, 6, 8), 0.3)

    def loss(z, video, remat):
        moments = vae.encode(video, remat=remat)
        return jnp.sum(vae.decode(z, remat=remat) ** 2) + jnp.sum(moments[0] * moments[1])

    compiled = [
        jax.jit(jax.grad(functools.partial(loss, remat=remat), (0, 1))).lower(z, video).compile()
        for remat in (False, True)
    ]
    for plain, again in zip(*(f(z, video) for f in compiled), strict=True):
        # What was rounded in another order: about 10 convolutions of 27 x 4 products, one after the other.
        atol = 10 * np.sqrt(27 * 4) * np.finfo(np.float32).eps * np.abs(plain).max()
        np.testing.assert_allclose(plain, again, rtol=0, atol=atol)
    plain, again = (f.memory_analysis().temp_size_in_bytes for f in compiled)
    assert again < 0.7 * plain


def test_memory_and_program_do_not_grow_with_the_length():
    vae = numbered(TWO_LEVELS)
    temporary, lines = {}, {}
    for frames in (5, 41):
        z = latents(frames=frames, size=(8, 8))
        lowered = model_module._decode.lower(vae, z, cuts=None, remat=False)
        lines[frames] = len(lowered.as_text().splitlines())
        temporary[frames] = lowered.compile().memory_analysis().temp_size_in_bytes
    video_bytes = 3 * 16 * 16 * 4 * (1 + 2 * 40)
    assert abs(temporary[41] - temporary[5]) < 0.02 * video_bytes, temporary
    assert lines[41] == lines[5]


def test_weights_of_another_dtype_than_the_model():
    vae = filled(TWO_LEVELS, lambda i, name, shape: np.ones(shape, np.float32), jnp.float32)
    for leaf in jax.tree.leaves(nnx.state(vae), is_leaf=lambda x: isinstance(x, nnx.Variable)):
        leaf.set_value(leaf[...].astype(jnp.bfloat16))
    assert vae.decode(latents()).dtype == jnp.float32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda v: v.decode(jnp.zeros((1, 5, 2, 4, 4))), r"\(1, 5, 2, 4, 4\) .* it has 5 channels"),
        (lambda v: v.decode(jnp.zeros((1, 2, 4, 4, 4))), "it has 2 channels"),
        (
            lambda v: v.decode(jnp.zeros((4, 2, 4, 4))),
            r"must be \[B, 4, T, h, w\]; add an axis",
        ),
        (lambda v: v.decode(jnp.zeros((1, 4, 0, 4, 4))), "at least one entry"),
        (lambda v: v.decode_chunks(jnp.zeros((1, 4, 0, 4, 4))), "at least one entry"),
        (lambda v: v.encode(jnp.zeros((1, 4, 3, 4, 4))), "it has 4 channels"),
        (lambda v: v.encode(jnp.zeros((3, 3, 4, 4))), "add an axis of one"),
        (lambda v: v.encode(jnp.zeros((1, 3, 0, 4, 4))), "at least one entry"),
        (
            lambda v: v.encode(jnp.zeros((1, 3, 6, 4, 4))),
            r"6 frames, and whole latents take 2 k \+ 1; cut it to 5 or extend it to 7",
        ),
        (
            lambda v: v.encode(jnp.zeros((1, 3, 3, 4, 5))),
            "4 x 5 pixels, and both must be multiples of 2",
        ),
        (
            lambda v: v.decode(
                latents(), tile=Tile(height=5, width=5, stride_height=4, stride_width=4)
            ),
            "height=5 .* must be multiples of 2, which a latent covers",
        ),
        (lambda v: v.normalize(jnp.zeros((1, 5, 2, 4, 4))), "it has 5 channels"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call(numbered(TWO_LEVELS))
