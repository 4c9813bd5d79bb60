"""Wan's conventions, against runs of diffusers' WanPipeline and WanImageToVideoPipeline."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from models.pipelines import Clip, Wan
from models.t5 import encode_wan_prompts
from tests.models import parity
from tests.models.pipelines import recorded
from tests.models.t5.encoders import encoder, roundings
from tests.models.t5.test_prompts import letters
from tests.models.wan_vae.tiny import ENCODE


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    names = "wan_t2v", "wan_i2v"
    return {name: recorded.read(tmp_path_factory.mktemp(name), name) for name in names}


@pytest.mark.parametrize("name", ["wan_t2v", "wan_i2v"])
def test_a_run_is_diffusers(name, runs):
    assert type(runs[name].family) is Wan
    recorded.assert_run_is_diffusers(runs[name])


def test_the_image_becomes_a_mask_and_latents(runs):
    run = runs["wan_i2v"]
    n = 2 + ENCODE  # and mean and deviation of the latents
    parity.assert_close(run.image, run.arrays["image_latents"], n, "mask and latents")
    np.testing.assert_array_equal(run.image[:, :4, 0], 1)
    np.testing.assert_array_equal(run.image[:, :4, 1:], 0)


@pytest.mark.parametrize("name", ["wan_t2v", "wan_i2v"])
def test_guidance(name, runs):
    recorded.assert_guidance_takes_a_row_each(runs[name])


def test_an_image_stands_beside_the_noise_in_both_rows(runs):
    run = runs["wan_i2v"]
    image = jnp.asarray(run.arrays["image_latents"])
    _, call = recorded.predict(run, run.family.conditions(run.text(), run.clip, 3.0, image))
    joined = np.concatenate([run.arrays["noise"], image], 1)
    np.testing.assert_array_equal(call["hidden_states"], np.concatenate([joined] * 2))
    states = np.concatenate([run.arrays["image_embeds"]] * 2)
    np.testing.assert_array_equal(call["encoder_hidden_states_image"], states)


def test_prompts_become_diffusers_embeddings():
    with np.load(parity.FOLDER / "pipeline_prompts.npz") as file:
        text = encode_wan_prompts(
            letters, encoder("umt5"), ["  Cat &amp; dog "], negative_prompts=["b"], max_length=16
        )
        for name in ("prompt_embeds", "negative_prompt_embeds"):
            n = roundings("umt5", 16)
            parity.assert_close(getattr(text, name), file[f"umt5/{name}"], n, name)


def test_sizes(runs):
    family = runs["wan_t2v"].family
    assert family.latent_shape(Clip(9, 48, 80)) == (1, 16, 3, 6, 10)
    assert family.text_shape == (512, 48)
    assert (family.compression, family.frame_step, family.patch) == ((4, 8, 8), 4, (1, 2, 2))


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (Clip(7, 32, 32), r"frames=7: Wan makes 1 \+ 4 k frames; ask for 5 or 9"),
        (Clip(0, 32, 32), "ask for 1 or 5"),
        (Clip(5, 40, 32), r"height=40 must be a multiple of 16 for Wan .* ask for 32 or 48"),
        (Clip(5, 32, 8), "width=8 must be a multiple of 16 .* ask for 16 or 32"),
    ],
)
def test_impossible_clips_are_refused_with_possible_ones(clip, message, runs):
    with pytest.raises(ValueError, match=message):
        runs["wan_t2v"].family.check_clip(clip)


def test_embeddings_that_lack_something_are_refused(runs):
    run = runs["wan_t2v"]
    with pytest.raises(ValueError, match=r"lack negative_prompt_embeds; .* set guidance to 1"):
        run.family.conditions(run.text(negative_prompt_embeds=None), run.clip, 3.0)
    run = runs["wan_i2v"]
    image = jnp.asarray(run.arrays["image_latents"])
    with pytest.raises(ValueError, match=r"needs `image_embeds`, CLIP's .* --embeddings"):
        run.family.conditions(run.text(image_embeds=None), run.clip, 3.0, image)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 600, 48), "have 600 tokens, and the transformer takes at most 512"),
        ((1, 512, 40), "prompt_embeds are 40 wide, but this transformer takes 48"),
    ],
)
def test_embeddings_of_another_encoder_are_refused(shape, message, runs):
    run = runs["wan_t2v"]
    text = dataclasses.replace(run.text(), prompt_embeds=jnp.zeros(shape))
    text = dataclasses.replace(text, negative_prompt_embeds=jnp.zeros(shape))
    with pytest.raises(ValueError, match=message):
        run.family.conditions(text, run.clip, 3.0)


def test_embeddings_of_hunyuan_video_are_refused(runs):
    run = runs["wan_t2v"]
    text = dataclasses.replace(run.text(), pooled_projections=jnp.zeros((1, 3)))
    with pytest.raises(ValueError, match="have pooled_projections, so they are HunyuanVideo's"):
        run.family.conditions(text, run.clip, 1.0)


def test_shorter_embeddings_are_those_filled_with_zeros(runs):
    run = runs["wan_t2v"]
    names = ("prompt_embeds", "negative_prompt_embeds")
    cut = {name: getattr(run.text(), name)[:, :226] for name in names}
    short = run.family.conditions(dataclasses.replace(run.text(), **cut), run.clip, 3.0)
    whole = run.family.conditions(run.text(), run.clip, 3.0)
    name = "encoder_hidden_states"
    assert not np.asarray(whole.inputs[name])[:, 226:].any()
    np.testing.assert_array_equal(short.inputs[name], whole.inputs[name])


def test_images_are_for_image_models_alone(runs):
    text, image = runs["wan_t2v"], runs["wan_i2v"]
    with pytest.raises(ValueError, match="a text-to-video Wan; leave the image out"):
        text.family.image_latents(text.vae, np.zeros((32, 48, 3), np.uint8), text.clip)
    with pytest.raises(ValueError, match=r"an image-to-video Wan; give its first frame"):
        image.family.conditions(image.text(), image.clip, 3.0)
