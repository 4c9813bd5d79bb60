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
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 7.0}
DPM = {
    "_class_name": "CogVideoXDPMScheduler", "prediction_type": "v_prediction", "snr_shift_scale": 1.0
}  # fmt: skip
SCHEDULERS = {"wan": FLOW, "hunyuan": FLOW, "cogvideox": DPM}


@pytest.fixture
def folder(tmp_path):
    def make(name, *, model=None, scheduler=None, **changes):
        transformer, vae, pipeline, _ = PARTS[name]
        transformer = model or transformer
        for part, config in (("transformer", transformer), ("vae", vae)):
            (tmp_path / part).mkdir()
            shutil.copy(FOLDER / f"{config}_config.json", tmp_path / part / "config.json")
        (tmp_path / "scheduler").mkdir()
        (tmp_path / "scheduler" / "scheduler_config.json").write_text(
            json.dumps(SCHEDULERS[scheduler or name])
        )
        index = {"_class_name": pipeline} | changes
        (tmp_path / "model_index.json").write_text(json.dumps(index))
        return tmp_path

    return make


@pytest.mark.parametrize("name", PARTS)
def test_configurations_alone_say_the_family(folder, name):
    family = read_family(folder(name))
    assert type(family) is PARTS[name][3]
    assert type(family.scheduler) in family.SCHEDULERS
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
        (
            {"transformer_2": ["diffusers", "WanTransformer3DModel"]},
            "two transformers that take turns",
        ),
        ({"transformer_2": "yes"}, "two transformers that take turns"),
        ({"controlnet": ["diffusers", "WanControlNet"]}, "parts that we do not run: controlnet;"),
        ({"_class_name": "HunyuanVideoPipeline"}, "is of HunyuanVideoPipeline, but .* a Wan for"),
        ({"_class_name": "WanImageToVideoPipeline"}, "but .* a Wan for text to video"),
        ({"_class_name": ["WanPipeline"]}, "is of \\['WanPipeline'\\]; we have"),
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
    with pytest.raises(ValueError, match="two transformers that take turns"):
        read_family(path)


def change(path, **changes):
    document = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(document))


@pytest.mark.parametrize("with_index", [True, False])
@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("wan", {"in_channels": 52}, r"in_channels=52; we run Wan with 16 \(text to video\), 36"),
        ("wan", {"pos_embed_seq_len": 514}, "first and the last frame"),
        ("hunyuan", {"in_channels": 33}, r"in_channels=33; we run HunyuanVideo with 16 \(text"),
        ("cogvideox", {"in_channels": 48}, r"in_channels=48; we run CogVideoX with 16 .*, 32 \(im"),
    ],
)
def test_models_that_are_conditioned_otherwise_are_refused(
    folder, name, changes, message, with_index
):
    path = folder(name)
    change(path / "transformer" / "config.json", **changes)
    if not with_index:
        (path / "model_index.json").unlink()
    with pytest.raises(ValueError, match=message):
        read_family(path)


def test_image_models_need_no_index(folder):
    path = folder("wan", model="wan_i2v", _class_name="WanImageToVideoPipeline")
    assert read_family(path).takes_image
    (path / "model_index.json").unlink()
    assert read_family(path).takes_image


@pytest.mark.parametrize(("name", "other"), [("wan", "cogvideox"), ("cogvideox", "hunyuan")])
def test_a_scheduler_of_another_path_is_refused(folder, name, other):
    with pytest.raises(ValueError, match=r"scheduler is of .* was trained for another path"):
        read_family(folder(name, scheduler=other))


def test_unknown_settings_are_named(folder):
    with pytest.warns(UserWarning, match="settings that we do not know and leave out: new_mode"):
        read_family(folder("wan", new_mode=1, _diffusers_version="1", expand_timesteps=False))


def test_a_byte_order_mark_and_a_link_that_points_nowhere(folder):
    path = folder("wan") / "vae" / "config.json"
    path.write_text("\ufeff" + path.read_text(), encoding="utf-8")
    assert isinstance(read_family(path.parents[1]), Wan)
    path.unlink()
    path.symlink_to("../../blobs/0123")
    with pytest.raises(FileNotFoundError, match="is a link that points nowhere"):
        read_family(path.parents[1])


def test_a_hub_s_cache_is_told_its_snapshots(tmp_path):
    snapshot = tmp_path / "models--Wan-AI--Wan2.1" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=f"lacks transformer/.*snapshots: {snapshot}"):
        read_family(snapshot.parents[1])


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
