"""From prompt to MP4 on tiny random checkpoints in the real layout."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from experiments import generate
from experiments.generation import generation
from experiments.generation.generation import Generation
from experiments.generation.memory import NotEnoughMemory
from experiments.generation.settings import Config
from models.pipelines import Memory
from models.text_embeddings import TextEmbeddings, save_embeddings

from .clips import decode
from .generation import folders

SMALL = dict(frames=9, height=64, width=96, steps=4, prompt="a cat rides a skateboard", seed=3)


@pytest.fixture(scope="module")
def wan(tmp_path_factory):
    return folders.wan(tmp_path_factory.mktemp("wan"))


def read(path):
    return decode(path, 64, 96)[0]


def test_a_prompt_becomes_a_video_beside_the_dense_one(wan, tmp_path, capsys):
    out = tmp_path / "clip.mp4"
    generate.main(Config(model=wan, attention="sta", compare=True, out=out, **SMALL))
    sparse, dense = read(out), read(tmp_path / "clip-dense.mp4")
    assert sparse.shape == dense.shape == (9, 64, 96, 3)
    assert sparse.std() > 5  # not blank
    report = json.loads(out.with_suffix(".json").read_text())
    assert report["phases"]["dense"]["dense"]["steps"] == 4
    assert report["phases"]["sta"]["reuse"]["steps"] == 3
    assert 5 < report["comparison"]["psnr_db"] < 80
    assert {"text", "load transformer", "decode", "compile"} <= report["seconds"].keys()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clip-dense.mp4", "clip.json", "clip.mp4"]
    said = capsys.readouterr().out
    assert "memory: denoising" in said
    assert "against dense: PSNR" in said


class Interrupted(Exception):
    pass


def test_an_interrupted_run_goes_on_and_ends_with_the_same_bits(wan, tmp_path, monkeypatch):
    config = Config(model=wan, save_every=1, out=tmp_path / "a.mp4", **SMALL)
    latents = []
    monkeypatch.setattr(
        Generation,
        "_decode",
        lambda self, vae, x: (latents.append(np.asarray(x)), np.zeros((9, 64, 96, 3), np.uint8))[1],
    )
    Generation(config).run()

    saved = generation.save_progress

    def interrupt(path, progress, settings):
        saved(path, progress, settings)
        if progress.step == 2:
            raise Interrupted

    broken = dataclasses.replace(config, out=tmp_path / "b.mp4")
    monkeypatch.setattr(generation, "save_progress", interrupt)
    with pytest.raises(Interrupted):
        Generation(broken).run()
    assert (tmp_path / "b.run.safetensors").is_file()
    assert not (tmp_path / "b.mp4").exists()
    with pytest.raises(ValueError, match="seed: 3 there, 4 here"):
        Generation(dataclasses.replace(broken, seed=4)).run()
    monkeypatch.setattr(generation, "save_progress", saved)
    Generation(broken).run()
    np.testing.assert_array_equal(latents[0], latents[1])
    assert not (tmp_path / "b.run.safetensors").exists()


def test_the_noise_depends_on_seed_and_size_only(wan, tmp_path, monkeypatch):
    noises = []

    def stop(self, noise, rows):
        noises.append(np.asarray(noise))
        raise Interrupted

    monkeypatch.setattr("models.pipelines.Denoiser.start", stop)
    monkeypatch.setattr("models.pipelines.Denoiser.compile", lambda *a: {None: Memory(1, 1, 1)})
    for attention in ("dense", "sta"):
        with pytest.raises(Interrupted):
            Generation(
                Config(model=wan, attention=attention, out=tmp_path / "x.mp4", **SMALL)
            ).run()
    np.testing.assert_array_equal(*noises)
    np.testing.assert_array_equal(
        noises[0], jax.random.normal(jax.random.key(3), (1, 16, 3, 8, 12))
    )


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(frames=10), ValueError, r"frames=10: Wan makes 1 \+ 4 k frames; ask for 9 or 13"),
        (dict(height=70), ValueError, r"height=70 must be a multiple of 16 .* ask for 64 or 80"),
        (dict(steps=0), ValueError, "steps=0 must be at least 1"),
        (dict(prompt=""), ValueError, "no --prompt and no --embeddings"),
        (dict(image="x.png"), ValueError, "text-to-video model; leave --image out"),
        (dict(lora=("no.safetensors",)), FileNotFoundError, "no file no.safetensors"),
        (dict(out="x.gif"), ValueError, r"x\.gif must end in \.mp4"),
        (dict(attention="nothing"), ValueError, "attention='nothing' must be dense"),
        (dict(model="nowhere"), FileNotFoundError, "no folder nowhere"),
        (dict(memory_gib=0.001), NotEnoughMemory, "do not fit"),
    ],
)
def test_mistakes_are_refused_before_anything_runs(
    wan, tmp_path, change, error, message, monkeypatch
):
    monkeypatch.setattr(
        "models.pipelines.Denoiser.compile", lambda *a: {None: Memory(2**20, 2**20, 0)}
    )
    paths = {"image", "out", "model"}
    change = {k: tmp_path / v if k in paths and v != "nowhere" else v for k, v in change.items()}
    if "lora" in change:
        change["lora"] = tuple(map(Path, change["lora"]))
    if "model" in change:
        change["model"] = Path(change["model"])
    config = Config(**{"model": wan, "out": tmp_path / "x.mp4", **SMALL, **change})
    with pytest.raises(error, match=message):
        Generation(config)
    assert not list(tmp_path.iterdir())


def test_missing_parts_are_named(wan, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(wan, copy)
    shutil.rmtree(copy / "text_encoder")
    with pytest.raises(
        FileNotFoundError, match="has no text_encoder/; download it, or pass precomputed"
    ):
        Generation(Config(model=copy, out=tmp_path / "x.mp4", **SMALL))
    shutil.rmtree(copy / "vae")
    with pytest.raises(FileNotFoundError, match=r"lacks vae/config\.json"):
        Generation(Config(model=copy, out=tmp_path / "x.mp4", **SMALL))


def test_nothing_is_overwritten(wan, tmp_path):
    out = tmp_path / "x.mp4"
    out.write_text("mine")
    with pytest.raises(FileExistsError, match=r"x\.mp4 exists and is not overwritten"):
        Generation(Config(model=wan, out=out, **SMALL))
    assert out.read_text() == "mine"


def test_image_to_video_takes_a_picture_and_its_embeddings(tmp_path):
    folder = folders.wan(tmp_path / "i2v", image=True)
    Image.new("RGB", (120, 50), (200, 30, 30)).save(tmp_path / "first.png")
    rng = np.random.default_rng(0)
    arrays = {
        "prompt_embeds": rng.normal(size=(1, 512, folders.TEXT_DIM)),
        "image_embeds": rng.normal(size=(1, 17, 20)),
    }
    arrays = {k: v.astype(np.float32) for k, v in arrays.items()}
    save_embeddings(tmp_path / "text.safetensors", TextEmbeddings(**arrays))
    out = tmp_path / "clip.mp4"
    flags = SMALL | dict(prompt="", guidance=1.0, steps=2)
    files = dict(image=tmp_path / "first.png", embeddings=tmp_path / "text.safetensors", out=out)
    generate.main(Config(model=folder, **files, **flags))
    assert read(out).shape == (9, 64, 96, 3)


def test_hunyuan_video_runs_from_precomputed_text(tmp_path):
    folder = folders.hunyuan_video(tmp_path / "model")
    rng = np.random.default_rng(0)
    text = TextEmbeddings(
        prompt_embeds=rng.normal(size=(1, 20, folders.TEXT_DIM)).astype(np.float32),
        prompt_attention_mask=(np.arange(20) < 13)[None].astype(np.int32),
        pooled_projections=rng.normal(size=(1, 12)).astype(np.float32),
    )
    save_embeddings(tmp_path / "text.npz", text)
    flags = SMALL | dict(prompt="", steps=2, attention="sta", out=tmp_path / "clip.mp4")
    with pytest.raises(
        ValueError, match=r"text encoders .* run in torch only; make an embeddings file"
    ):
        Generation(Config(model=folder, **flags))
    generate.main(Config(model=folder, embeddings=tmp_path / "text.npz", **flags))
    assert read(tmp_path / "clip.mp4").shape == (9, 64, 96, 3)


def test_cogvideox_runs_from_a_prompt(tmp_path):
    folder = folders.cogvideox(tmp_path / "model", version="1.5")
    flags = SMALL | dict(steps=2, attention="sparse-vdit", tile="on", out=tmp_path / "clip.mp4")
    generate.main(Config(model=folder, **flags))
    assert read(tmp_path / "clip.mp4").shape == (9, 64, 96, 3)
