"""Telling families apart by their folders."""

import json
import shutil

import pytest

from models.pipelines import CogVideoX, HunyuanVideo, Wan, read_family

from ..parity import FOLDER

PARTS = {
    "wan": ("wan", "vae_wan", "WanPipeline", Wan),
    "hunyuan": ("hunyuan", "vae_hunyuan", "HunyuanVideoPipeline", HunyuanVideo),
    "cogvideox": ("cogvideox_5b", "vae_cogvideox", "CogVideoXPipeline", CogVideoX),
}
SCHEDULER = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 7.0}


@pytest.fixture
def folder(tmp_path):
    def make(name, **changes):
        transformer, vae, pipeline, _ = PARTS[name]
        for part, config in (("transformer", transformer), ("vae", vae)):
            (tmp_path / part).mkdir()
            shutil.copy(FOLDER / f"{config}_config.json", tmp_path / part / "config.json")
        (tmp_path / "scheduler").mkdir()
        (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
        index = {"_class_name": pipeline} | changes
        (tmp_path / "model_index.json").write_text(json.dumps(index))
        return tmp_path

    return make


@pytest.mark.parametrize("name", PARTS)
def test_configurations_alone_say_the_family(folder, name):
    family = read_family(folder(name))
    assert type(family) is PARTS[name][3]
    assert family.scheduler.config.shift == 7.0
    assert family.latent_channels == 16


def test_an_index_is_not_needed(folder):
    path = folder("wan")
    (path / "model_index.json").unlink()
    assert isinstance(read_family(path), Wan)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"_class_name": "StableDiffusionPipeline"},
            "is of 'StableDiffusionPipeline'; we have WanPipeline",
        ),
        ({"boundary_ratio": 0.875}, "two transformers that take turns"),
        ({"expand_timesteps": True}, "own timestep"),
        ({"transformer_2": ["diffusers", "WanTransformer3DModel"]}, "names a second transformer"),
    ],
)
def test_other_pipelines_are_refused(folder, changes, message):
    path = folder("wan", **changes)
    with pytest.raises(ValueError, match=message):
        read_family(path)


def test_a_second_expert_is_refused_without_an_index_too(folder):
    path = folder("wan", transformer_2=[None, None], boundary_ratio=None)
    assert isinstance(read_family(path), Wan)
    shutil.copytree(path / "transformer", path / "transformer_2")
    (path / "model_index.json").unlink()
    with pytest.raises(ValueError, match=r"two transformers that take turns \(transformer_2/"):
        read_family(path)


def test_missing_parts_are_all_named(folder, tmp_path):
    path = folder("wan")
    shutil.rmtree(path / "vae")
    shutil.rmtree(path / "scheduler")
    with pytest.raises(
        FileNotFoundError, match=r"lacks vae/config\.json, scheduler/scheduler_config\.json"
    ):
        read_family(path)
    with pytest.raises(FileNotFoundError, match="no folder"):
        read_family(tmp_path / "nowhere")


def test_parts_of_two_checkpoints_are_refused(folder):
    path = folder("wan")
    shutil.copy(FOLDER / "vae_hunyuan_config.json", path / "vae" / "config.json")
    with pytest.raises(
        ValueError, match=r"joins WanTransformer3DModel with AutoencoderKLHunyuanVideo, but Wan"
    ):
        read_family(path)
