"""What families of latent models share."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from models.cogvideox import PRESETS as COGVIDEOX
from models.cogvideox_vae import PRESETS as COGVIDEOX_VAES
from models.hunyuan_video import PRESETS as HUNYUAN
from models.hunyuan_video_vae import PRESETS as HUNYUAN_VAES
from models.pipelines import Clip, CogVideoX, HunyuanVideo, Wan
from models.schedulers import scheduler_from_json
from models.tiling import Tile
from models.wan import PRESETS
from models.wan_vae import PRESETS as VAES

FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 7.0}
DDIM = {
    "_class_name": "CogVideoXDDIMScheduler", "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True, "timestep_spacing": "trailing",
}  # fmt: skip


@pytest.fixture
def wan():
    return Wan(Path("w"), PRESETS["wan2.1-t2v-14b"], VAES["wan2.1-vae"], scheduler_from_json(FLOW))


@pytest.fixture
def hunyuan():
    return HunyuanVideo(
        Path("h"),
        HUNYUAN["hunyuanvideo"],
        HUNYUAN_VAES["hunyuanvideo-vae"],
        scheduler_from_json(FLOW),
    )


def cogvideox(version):
    vae = COGVIDEOX_VAES["cogvideox-5b-vae" if version == "cogvideox-5b" else "cogvideox1.5-5b-vae"]
    return CogVideoX(Path("c"), COGVIDEOX[version], vae, scheduler_from_json(DDIM))


def test_usual_clips_have_the_published_latents(wan, hunyuan):
    assert wan.latent_shape(Clip(81, 720, 1280)) == (1, 16, 21, 90, 160)
    assert hunyuan.latent_shape(Clip(129, 720, 1280)) == (1, 16, 33, 90, 160)
    assert cogvideox("cogvideox-5b").latent_shape(Clip(49, 480, 720)) == (1, 13, 16, 60, 90)
    # 1.5 pads 21 latent frames to 22, for its patches are two frames long
    assert cogvideox("cogvideox1.5-5b").latent_shape(Clip(81, 768, 1360)) == (1, 22, 16, 96, 170)
    for family in (wan, hunyuan, cogvideox("cogvideox-5b"), cogvideox("cogvideox1.5-5b")):
        family.check_clip(family.defaults.clip)


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (Clip(80, 480, 832), r"frames=80: Wan makes 1 \+ 4 k frames; ask for 77 or 81"),
        (Clip(0, 480, 832), "frames=0"),
        (Clip(81, 481, 832), r"height=481 must be a multiple of 16 .* ask for 480 or 496"),
        (Clip(81, 480, 8), "width=8 must be a multiple of 16 .* ask for 16 or 32"),
    ],
)
def test_impossible_clips_are_refused_with_their_neighbours(wan, clip, message):
    with pytest.raises(ValueError, match=message):
        wan.check_clip(clip)


@pytest.mark.parametrize("frames", [1, 5, 13, 49, 81, 85, 161])
def test_cogvideox_takes_what_diffusers_takes(frames):
    # The rule of diffusers: (num_frames - 1) // 4 + 1 latents, in 1.5 up to the next even number.
    latents = {1: 1, 5: 2, 13: 4, 49: 13, 81: 21, 85: 22, 161: 41}[frames]
    for version, made in (("cogvideox-5b", latents), ("cogvideox1.5-5b", latents + latents % 2)):
        family, clip = cogvideox(version), Clip(frames, 480, 720)
        family.check_clip(clip)
        assert family.latent_shape(clip)[1] == made
        assert family.padding(clip) == made - latents
        x = jnp.arange(float(made))[None, :, None, None, None] * jnp.ones((1, made, 1, 1, 1))
        np.testing.assert_array_equal(
            family.to_vae(x, clip)[0, 0, :, 0, 0], np.arange(made - latents, made)
        )


def test_a_shift_changes_the_scheduler_only(wan):
    other = wan.with_shift(3.0)
    assert other.scheduler.config.shift == 3.0
    assert wan.scheduler.config.shift == 7.0
    assert other.transformer is wan.transformer
    with pytest.raises(ValueError, match=r"has no flow shift; leave shift=3\.0 out"):
        cogvideox("cogvideox-5b").with_shift(3.0)


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0])
def test_guidance_of_one_or_less_is_off(wan, scale):
    assert not wan.guided(scale)
    assert not cogvideox("cogvideox-5b").guided(scale)
    assert wan.guided(1.001)


@pytest.mark.parametrize("scale", [-1.0, -0.001, float("nan"), float("inf")])
def test_guidance_that_is_no_scale_is_refused(wan, scale):
    with pytest.raises(ValueError, match=r"guidance=\S+ must be a finite number from 0 on"):
        wan.guided(scale)


def test_frames_that_are_not_finite_are_refused(wan):
    class Vae:
        dtype = jnp.float32

        def denormalize(self, z):
            return z

        def decode_chunks(self, z, *, tile):
            yield z

    good = list(wan.frames(Vae(), jnp.full((1, 3, 1, 2, 2), 0.5), Clip(1, 2, 2)))
    assert good[0].dtype == np.uint8
    assert (good[0] == 191).all()
    with pytest.raises(FloatingPointError, match="NaN or infinity; try --dtype float32"):
        list(wan.frames(Vae(), jnp.full((1, 3, 1, 2, 2), jnp.nan), Clip(1, 2, 2)))


def test_decoding_is_planned_with_the_latents_that_are_held_at_a_time(wan, hunyuan):
    cogvideo, clip = cogvideox("cogvideox-5b"), Clip(129, 720, 1280)
    assert wan.probe(clip, None) == (1, 16, 3, 90, 160)
    assert wan.probe(clip, wan.tiling()) == (1, 16, 3, 32, 32)
    assert cogvideo.probe(Clip(49, 480, 720), None) == (1, 16, 5, 60, 90)
    assert cogvideo.probe(Clip(49, 480, 720), cogvideo.tiling()) == (1, 16, 5, 30, 45)
    # cut in time too, and without a tile by the default one
    assert hunyuan.probe(clip, hunyuan.tiling()) == (1, 16, 5, 32, 32)
    assert hunyuan.probe(clip, None) == (1, 16, 5, 32, 32)
    assert hunyuan.probe(Clip(5, 128, 720), None) == (1, 16, 2, 16, 32)
    assert wan.probe(Clip(5, 128, 720), Tile(height=None)) == (1, 16, 2, 16, 32)
