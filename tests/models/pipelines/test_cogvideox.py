"""CogVideoX's conventions, against runs of diffusers' CogVideoXPipeline and CogVideoXImageToVideoPipeline.

The image-to-video runs were recorded with the mean of the image's latents, which we take; diffusers draws a sample.
"""

import copy
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.pipelines import Clip, CogVideoX
from models.schedulers import CogVideoXDPMScheduler
from models.t5 import encode_cogvideox_prompts
from tests import tolerances
from tests.models import parity
from tests.models.cogvideox_vae.tiny import ENCODE
from tests.models.pipelines import recorded
from tests.models.schedulers.recorded import STEP
from tests.models.t5.encoders import encoder, roundings
from tests.models.t5.test_prompts import letters

IMAGES = ["cogvideox_i2v", "cogvideox_15_i2v"]
NAMES = ["cogvideox_ddim", "cogvideox_dpm", "cogvideox_15", *IMAGES]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return {name: recorded.read(tmp_path_factory.mktemp(name), name) for name in NAMES}


def with_noise(run, noises):
    """The run with a scheduler that takes these [steps, ...] in place of its own draws."""

    class Replay(CogVideoXDPMScheduler):
        def step(self, model_output, i, x, state, tables, noise=None):
            assert noise is not None
            return super().step(model_output, i, x, state, tables, jnp.asarray(noises)[i])

    family = copy.copy(run.family)
    family.scheduler = Replay(run.family.scheduler.config)
    return dataclasses.replace(run, family=family)


@pytest.mark.parametrize("name", NAMES)
def test_a_run_is_diffusers(name, runs):
    run = runs[name]
    assert type(run.family) is CogVideoX
    assert run.family.scheduler.draws_noise == ("noises" in run.arrays)
    if run.family.scheduler.draws_noise:
        run = with_noise(run, run.arrays["noises"])
    recorded.assert_run_is_diffusers(run)


def test_noise_is_drawn_with_the_denoiser_s_key(runs):
    run, key = runs["cogvideox_dpm"], jax.random.key(5)
    noise = run.arrays["noise"]
    drawn = [jax.random.normal(jax.random.fold_in(key, i), noise.shape) for i in range(run.steps)]

    def latents(run, **kwargs):
        family = copy.copy(run.family)
        family.predict = lambda model, x, *rest: (0.5 * x, ())
        denoiser = dataclasses.replace(run, family=family).denoiser(**kwargs)
        conditions = run.conditions()
        return denoiser.run(None, conditions, denoiser.start(noise, conditions))

    want = latents(with_noise(run, np.stack(drawn)))
    n = len(run.arrays["x"]) * STEP
    tolerances.assert_rounding_apart(latents(run, key=key), want, n, "the same draws")
    assert np.abs(want - latents(run)).max() > 0.1  # another key


@pytest.mark.parametrize("name", IMAGES)
def test_the_image_is_the_first_of_the_latents(name, runs):
    run = runs[name]
    n = 2 + max(ENCODE.values())
    parity.assert_close(run.image, run.arrays["image_latents"], n, "latents of the image")
    assert not np.asarray(run.image)[:, 1:].any()
    image = jnp.asarray(run.arrays["image_latents"])
    conditions = run.family.conditions(run.text(), run.clip, 3.0, image)
    _, call = recorded.predict(run, conditions)
    joined = np.concatenate([run.arrays["noise"], image], 2)
    np.testing.assert_array_equal(call["hidden_states"], np.concatenate([joined] * 2))
    assert (run.transformer.config.ofs_embed_dim is None) == ("ofs" not in call)
    np.testing.assert_array_equal(call.get("ofs", 2.0), 2.0)


@pytest.mark.parametrize("name", ["cogvideox_ddim", "cogvideox_15", "cogvideox_15_i2v"])
def test_guidance(name, runs):
    recorded.assert_guidance_takes_a_row_each(runs[name])


def test_only_rotary_models_get_tables(runs):
    for name, run in runs.items():
        image = jnp.asarray(run.arrays["image_latents"]) if name in IMAGES else None
        conditions = run.family.conditions(run.text(), run.clip, 3.0, image)
        assert (conditions.rotary is None) == (name == "cogvideox_dpm"), name


def test_prompts_become_diffusers_embeddings():
    with np.load(parity.FOLDER / "pipeline_prompts.npz") as file:
        text = encode_cogvideox_prompts(
            letters, encoder("t5v11"), ["  Cat &amp; dog "], negative_prompts=["b"], max_length=16
        )
        for name in ("prompt_embeds", "negative_prompt_embeds"):
            n = roundings("t5v11", 16)
            parity.assert_close(getattr(text, name), file[f"t5v11/{name}"], n, name)


def test_padding_is_made_and_dropped(runs):
    family, clip = runs["cogvideox_15"].family, Clip(17, 48, 80)
    assert (family.padding(clip), family.latent_shape(clip)) == (1, (1, 6, 16, 6, 10))
    x = jnp.arange(6.0)[None, :, None, None, None] * jnp.ones(family.latent_shape(clip))
    kept = family.to_vae(x, clip)
    assert kept.shape == (1, 16, 5, 6, 10)
    np.testing.assert_array_equal(kept[0, 0, :, 0, 0], [1, 2, 3, 4, 5])
    family = runs["cogvideox_ddim"].family
    assert (family.padding(clip), family.latent_shape(clip)) == (0, (1, 5, 16, 6, 10))


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (Clip(12, 32, 32), r"frames=12: CogVideoX makes 1 \+ 4 k frames; ask for 9 or 13"),
        (Clip(9, 32, 40), "width=40 must be a multiple of 16 .* ask for 32 or 48"),
    ],
)
def test_impossible_clips_are_refused_with_possible_ones(clip, message, runs):
    with pytest.raises(ValueError, match=message):
        runs["cogvideox_15"].family.check_clip(clip)


def test_a_missing_negative_prompt_is_refused(runs):
    run = runs["cogvideox_ddim"]
    with pytest.raises(ValueError, match=r"lack negative_prompt_embeds; .* set guidance to 1"):
        run.family.conditions(run.text(negative_prompt_embeds=None), run.clip, 3.0)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 8, 40), "have 8 tokens, but this CogVideoX takes 9, .* --max-length 9"),
        ((1, 10, 40), "have 10 tokens, but this CogVideoX takes 9"),
        ((1, 9, 48), "prompt_embeds are 48 wide, but this transformer takes 40"),
    ],
)
def test_embeddings_of_another_encoder_are_refused(shape, message, runs):
    run = runs["cogvideox_ddim"]
    text = dataclasses.replace(
        run.text(), prompt_embeds=jnp.zeros(shape), negative_prompt_embeds=jnp.zeros(shape)
    )
    with pytest.raises(ValueError, match=message):
        run.family.conditions(text, run.clip, 3.0)


def test_images_are_for_image_models_alone(runs):
    text, image = runs["cogvideox_ddim"], runs["cogvideox_i2v"]
    with pytest.raises(ValueError, match="a text-to-video CogVideoX; leave the image out"):
        text.family.image_latents(text.vae, np.zeros((32, 48, 3), np.uint8), text.clip)
    with pytest.raises(ValueError, match="an image-to-video CogVideoX; give its first frame"):
        image.family.conditions(image.text(), image.clip, 3.0)
