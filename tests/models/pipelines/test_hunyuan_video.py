"""HunyuanVideo's conventions, against runs of diffusers' HunyuanVideoPipeline."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from models.pipelines import Clip, HunyuanVideo
from tests.models.pipelines import recorded

NAMES = ["hunyuan", "hunyuan_noguid"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return {name: recorded.read(tmp_path_factory.mktemp(name), name) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_a_run_is_diffusers(name, runs):
    assert type(runs[name].family) is HunyuanVideo
    recorded.assert_run_is_diffusers(runs[name])


def test_distilled_guidance_is_an_input_and_no_row(runs):
    run = runs["hunyuan"]
    conditions = run.family.conditions(run.text(), run.clip, 6.0)
    assert conditions.guidance is None
    _, call = recorded.predict(run, conditions)
    np.testing.assert_array_equal(call["guidance"], [6000])
    assert len(call["hidden_states"]) == 1


def test_guidance_without_distillation(runs):
    run = runs["hunyuan_noguid"]
    recorded.assert_guidance_takes_a_row_each(run)
    conditions = run.family.conditions(run.text(), run.clip, 3.0)
    assert "guidance" not in conditions.inputs
    for name in ("prompt_attention_mask", "pooled_projections"):
        got = conditions.inputs[name.replace("prompt_", "encoder_")]
        both = np.concatenate([run.arrays[name], run.arrays[f"negative_{name}"]])
        np.testing.assert_array_equal(got, both)


def test_sizes(runs):
    family = runs["hunyuan"].family
    assert family.latent_shape(Clip(9, 48, 80)) == (1, 16, 3, 6, 10)
    assert family.text_shape == (256, 40)


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (Clip(8, 32, 32), r"frames=8: HunyuanVideo makes 1 \+ 4 k frames; ask for 5 or 9"),
        (Clip(5, 24, 32), "height=24 must be a multiple of 16 .* ask for 16 or 32"),
    ],
)
def test_impossible_clips_are_refused_with_possible_ones(clip, message, runs):
    with pytest.raises(ValueError, match=message):
        runs["hunyuan"].family.check_clip(clip)


@pytest.mark.parametrize("name", ["prompt_attention_mask", "pooled_projections"])
def test_embeddings_that_lack_something_are_refused(name, runs):
    run = runs["hunyuan"]
    with pytest.raises(ValueError, match=f"lack {name}; make them with this"):
        run.family.conditions(run.text(**{name: None}), run.clip, 6.0)
    run = runs["hunyuan_noguid"]
    with pytest.raises(ValueError, match=rf"lack {name} and negative_{name}; .* guidance to 1"):
        run.family.conditions(run.text(**{name: None, f"negative_{name}": None}), run.clip, 3.0)


def test_embeddings_of_another_encoder_are_refused(runs):
    run = runs["hunyuan"]
    text = dataclasses.replace(run.text(), prompt_embeds=jnp.zeros((1, 11, 48)))
    with pytest.raises(
        ValueError, match="prompt_embeds are 48 wide, but this transformer takes 40"
    ):
        run.family.conditions(text, run.clip, 6.0)
    text = dataclasses.replace(run.text(), pooled_projections=jnp.zeros((1, 3)))
    with pytest.raises(ValueError, match="pooled_projections are 3 wide"):
        run.family.conditions(text, run.clip, 6.0)


def test_distilled_guidance_takes_any_scale_and_never_a_negative_prompt(runs):
    distilled, plain = runs["hunyuan"], runs["hunyuan_noguid"]
    for scale in (0.0, 0.5, 1.0, 6.0):
        assert not distilled.family.guided(scale)
        conditions = distilled.family.conditions(distilled.text(), distilled.clip, scale)
        np.testing.assert_array_equal(conditions.inputs["guidance"], [1000 * scale])
    assert plain.family.guided(1.5)
    assert not plain.family.guided(1.0)


def test_pictures_are_kept_whole_where_that_is_asked_for(runs):
    family = runs["hunyuan"].family
    tile = family.untiled()
    assert (tile.height, tile.width, tile.frames) == (None, None, family.tiling().frames)
    large = Clip(61, 512, 768)
    assert family.probe(large, tile)[-2:] == (64, 96)
    assert family.probe(large, None)[-2:] == (32, 32)


def test_prompts_and_images_are_refused(runs):
    run = runs["hunyuan"]
    with pytest.raises(ValueError, match="run in torch only; make an embeddings file"):
        run.family.encode_prompts(["a cat"], None, dtype=jnp.float32)
    with pytest.raises(ValueError, match="a text-to-video HunyuanVideo; leave the image out"):
        run.family.image_latents(run.vae, np.zeros((32, 48, 3), np.uint8), run.clip)
