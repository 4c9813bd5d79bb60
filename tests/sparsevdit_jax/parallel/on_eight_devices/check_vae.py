"""A clip decoded by several devices, each its run of frames or its share of the tiles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.kernel_resources.collectives import count
from models.cogvideox_vae import CogVideoXVAE, CogVideoXVAEConfig
from models.hunyuan_video_vae import HunyuanVideoVAE, HunyuanVideoVAEConfig
from models.tiling import Tile
from models.wan_vae import WanVAE, WanVAEConfig
from sparsevdit_jax import parallel
from tests.models.random_weights import random_model

LATENTS = {"wan": 16, "cogvideox": 4, "hunyuan": 4}
WIDE = Tile(height=None, width=32, stride_width=24)
IN_TIME = Tile(frames=8, stride_frames=4, height=None, width=None)


@pytest.fixture(scope="module")
def vaes():
    """Of three levels each, the fewest that halve time twice."""
    wan = WanVAEConfig(
        base_dim=8, dim_mult=(1, 2, 2), num_res_blocks=1, temperal_downsample=(True, True),
        scale_factor_spatial=4,
    )  # fmt: skip
    small = dict(block_out_channels=(8, 8, 16), norm_num_groups=4, layers_per_block=1)
    small |= dict(latent_channels=4)
    cogvideox, hunyuan = (
        {f"{way.lower()}_block_types": (f"{family}{way}Block3D",) * 3 for way in ("Down", "Up")}
        for family in ("CogVideoX", "HunyuanVideo")
    )
    hunyuan |= dict(spatial_compression_ratio=4)
    return {
        "wan": random_model(WanVAE, wan),
        "cogvideox": random_model(CogVideoXVAE, CogVideoXVAEConfig(**small, **cogvideox)),
        "hunyuan": random_model(HunyuanVideoVAE, HunyuanVideoVAEConfig(**small, **hunyuan)),
    }


def latents(name, frames, batch=1):
    shape = (batch, LATENTS[name], frames, 4, 12)
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape, np.float32))


def close(found, expected):
    # Convolutions of up to 27 x 32 products, about 20 in a row, on chunks of other lengths.
    atol = 20 * np.sqrt(27 * 32) * np.finfo(np.float32).eps * np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


@pytest.mark.parametrize(
    ("name", "frames", "tile", "sends"),
    [
        pytest.param("wan", 9, None, "collective-permute", marks=pytest.mark.slow),
        pytest.param("wan", 8, None, "collective-permute", marks=pytest.mark.slow),
        pytest.param("wan", 12, None, "collective-permute", marks=pytest.mark.slow),  # three each
        ("wan", 19, None, "collective-permute"),  # two at a time, three times
        ("wan", 4, None, "collective-permute"),  # two on a device, none on the others
        ("wan", 3, None, None),  # too few to spread
        ("wan", 3, WIDE, "all-gather"),
        ("cogvideox", 13, None, "collective-permute"),  # a first chunk of 3 and five of 2
        pytest.param("cogvideox", 10, None, "collective-permute", marks=pytest.mark.slow),  # of 2
        pytest.param("cogvideox", 3, None, None, marks=pytest.mark.slow),
        pytest.param("cogvideox", 5, WIDE, "all-gather", marks=pytest.mark.slow),
        ("hunyuan", 5, IN_TIME, "all-gather"),
        pytest.param("hunyuan", 2, WIDE, "all-gather", marks=pytest.mark.slow),
    ],
)
def test_decoding_is_that_of_one_device(vaes, name, frames, tile, sends):
    vae, z = vaes[name], latents(name, frames)
    expected = vae.decode(z, tile=tile)
    with jax.set_mesh(parallel.make_mesh(seq=4)):
        program = jax.jit(lambda vae, z: vae.decode(z, tile=tile)).lower(vae, z).compile()
        found = program(vae, z)
    assert found.shape == expected.shape
    close(found, expected)
    sent = count(program.as_text())
    assert sends in sent if sends else not sent


@pytest.mark.parametrize("name", ["wan", pytest.param("cogvideox", marks=pytest.mark.slow)])
def test_two_clips_on_both_axes_of_a_mesh(vaes, name):
    vae, z = vaes[name], latents(name, 11, batch=2)
    expected = vae.decode(z)
    with jax.set_mesh(parallel.make_mesh(cfg=2, seq=4)):
        found = jax.jit(vae.decode)(z)
    close(found, expected)


@pytest.mark.parametrize(
    "name", [pytest.param("wan", marks=pytest.mark.slow), "cogvideox", "hunyuan"]
)
def test_chunks_come_at_once(vaes, name):
    vae, z = vaes[name], latents(name, 5)
    expected = jnp.concatenate(list(vae.decode_chunks(z)), 2)
    with jax.set_mesh(parallel.make_mesh(seq=2)):
        (found,) = vae.decode_chunks(z)
    close(found, expected)


@pytest.mark.parametrize("remat", [pytest.param(False, marks=pytest.mark.slow), True])
def test_gradients_cross_devices(vaes, remat):
    z = latents("wan", 8)  # two turns
    weight = np.random.default_rng(2).standard_normal((1, 1, 29, 1, 1)).astype(np.float32)

    def loss(z, remat):
        video = vaes["wan"].decode(z, remat=remat)
        return (video * weight).sum()

    expected = jax.jit(jax.grad(loss), static_argnums=1)(z, False)
    with jax.set_mesh(parallel.make_mesh(seq=2)):
        close(jax.jit(jax.grad(loss), static_argnums=1)(z, remat), expected)


@pytest.mark.parametrize(
    ("name", "tile"), [("cogvideox", None), pytest.param("wan", WIDE, marks=pytest.mark.slow)]
)
def test_encoding_is_that_of_one_device(vaes, name, tile):
    video = np.random.default_rng(1).uniform(-1, 1, (1, 3, 33, 32, 48)).astype(np.float32)
    expected = vaes[name].encode(jnp.asarray(video), tile=tile)
    with jax.set_mesh(parallel.make_mesh(seq=4)):
        found = vaes[name].encode(jnp.asarray(video), tile=tile)
    for a, b in zip(found, expected, strict=True):
        close(a, b)


@pytest.mark.optimised  # only then XLA joins what is sent to one neighbour
def test_only_the_frames_before_travel(vaes):
    with jax.set_mesh(parallel.make_mesh(seq=4)):
        lowered = jax.jit(vaes["wan"].decode).lower(jnp.zeros((1, 16, 9, 4, 12)))
        found = count(lowered.compile().as_text())
    assert "all-to-all" not in found
    assert found["all-gather"]["count"] == 1  # the frames, at the end
    convolutions = 2 + 2 * 2 + 3 * 2 * 2 + 2  # ends, middle, levels, doublings in time
    assert found["collective-permute"]["count"] in (convolutions, convolutions + 1)


@pytest.mark.parametrize(
    ("name", "first"), [pytest.param("wan", 1, marks=pytest.mark.slow), ("cogvideox", 2)]
)
def test_a_long_clip_takes_the_activations_of_a_turn(vaes, name, first):
    def memory(turns):
        z = latents(name, first + 4 * turns)
        plan = jax.jit(vaes[name].decode).lower(z).compile().memory_analysis()
        return plan.temp_size_in_bytes, plan.output_size_in_bytes

    with jax.set_mesh(parallel.make_mesh(seq=2)):
        (one, video), (four, long_video) = memory(1), memory(4)
    assert four - one < long_video - video
