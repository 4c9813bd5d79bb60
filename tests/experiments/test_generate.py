"""From prompt to MP4 on tiny random checkpoints in the real layout.

What is refused before anything is compiled is tested by generation/test_request.py and test_flags.py.
"""

import dataclasses
import json
import shutil
import types
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from experiments import generate
from experiments.generation import finish, generation
from experiments.generation.generate_flags import Config
from experiments.generation.generation import Generation
from experiments.generation.memory import NotEnoughMemory
from models.pipelines import Memory
from models.text_embeddings import TextEmbeddings, save_embeddings

from .clips import decode
from .generation import folders

SMALL = dict(
    frames=9, height=64, width=96, steps=4, prompt=("a cat rides a skateboard",), seed=(3,)
)


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
    assert report["config"]["prompt"] == SMALL["prompt"][0]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["clip-dense.mp4", "clip.json", "clip.mp4"]
    said = capsys.readouterr().out
    assert all(line in said for line in ("memory: denoising", "dense: PSNR", f"wrote {out}"))


class Interrupted(Exception):
    pass


@pytest.fixture
def latents(monkeypatch):
    """Of every video that is made, in order, by the name of its call; nothing is compiled to decode them."""
    found = {}

    def decode(self, vae, x):
        found.setdefault(self.config.out.name, []).append(np.asarray(x))
        pixels = np.asarray(x)[0, :3].transpose(1, 2, 3, 0)
        return np.clip(100 + 20 * pixels, 0, 255).astype(np.uint8)

    plan = types.SimpleNamespace(peak=0, tiled=False)
    monkeypatch.setattr(generation, "choose_decoding", lambda *a, **k: plan)
    monkeypatch.setattr(Generation, "_decode", decode)
    return found


def test_an_interrupted_run_goes_on_and_ends_with_the_same_bits(
    wan, tmp_path, monkeypatch, latents
):
    config = Config(model=wan, save_every=1, out=tmp_path / "a.npz", **SMALL)
    Generation(config).run()

    saved = generation.save_progress

    def interrupt(path, progress, settings):
        saved(path, progress, settings)
        if progress.step == 2:
            raise Interrupted

    model = Path(shutil.copytree(wan, tmp_path / "model"))
    broken = dataclasses.replace(config, model=model, out=tmp_path / "b.npz")
    monkeypatch.setattr(generation, "save_progress", interrupt)
    with pytest.raises(Interrupted):
        Generation(broken).run()
    assert (tmp_path / "b.run.safetensors").is_file()
    assert not (tmp_path / "b.npz").exists()
    with pytest.raises(ValueError, match="seed: 3 there, 4 here"):
        Generation(dataclasses.replace(broken, seed=(4,)))
    weights = model / "transformer" / "diffusion_pytorch_model.safetensors"
    arrays, whole = load_file(weights), weights.read_bytes()
    name = "blocks.0.attn1.to_q.weight"
    save_file(arrays | {name: arrays[name] * 2}, weights, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"transformer/diffusion_pytorch_model\.safetensors: 'sha"):
        Generation(broken)
    weights.write_bytes(whole)
    monkeypatch.setattr(generation, "save_progress", saved)
    monkeypatch.chdir(tmp_path)
    Generation(dataclasses.replace(broken, model=Path("model"))).run()
    np.testing.assert_array_equal(latents["a.npz"], latents["b.npz"])
    assert not (tmp_path / "b.run.safetensors").exists()


def test_nothing_that_is_finished_is_lost(wan, tmp_path, monkeypatch, capsys, latents):
    """Two videos; the first cannot be written, then the second; what is done is not done again."""
    config = Config(model=wan, out=tmp_path / "x.npz", save_latents=True)
    config = dataclasses.replace(config, **SMALL | dict(seed=(3, 4), steps=2))
    write, broken = finish.write_video, ["x-seed3.npz", "x-seed4.npz"]

    def write_video(path, video, *, fps):
        if path.name in broken:
            raise OSError(f"no room for {path.name}")
        return write(path, video, fps=fps)

    monkeypatch.setattr(finish, "write_video", write_video)
    with pytest.raises(OSError, match="no room for x-seed3"):
        Generation(config).run()
    assert "goes straight to decoding" in capsys.readouterr().out
    names = ["x-seed3.latents.safetensors", "x-seed4.latents.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names

    def denoise(*arguments):
        raise AssertionError("it is denoised already")

    monkeypatch.setattr("models.pipelines.Denoiser.compile", denoise)
    broken.remove("x-seed3.npz")
    with pytest.raises(OSError, match="no room for x-seed4"):
        Generation(config).run()
    first = tmp_path / "x-seed3.npz"
    written = first.read_bytes()
    assert (
        json.loads(first.with_suffix(".json").read_text())["phases"]["dense"]["dense"]["steps"] == 2
    )
    first.with_suffix(".json").unlink()  # as if interrupted between the two
    broken.clear()
    assert set(Generation(config).run()) == {first, tmp_path / "x-seed4.npz"}
    assert first.read_bytes() == written
    frames = [np.load(tmp_path / f"x-seed{seed}.npz")["frames"] for seed in (3, 4)]
    assert not np.array_equal(*frames)
    with pytest.raises(
        FileExistsError, match=r"all 2 videos from .*x-seed3\.npz to .*x-seed4\.npz"
    ):
        Generation(config)
    (tmp_path / "x-seed4.npz").unlink()
    (tmp_path / "x-seed4.json").unlink()
    assert set(Generation(config).run()) == {tmp_path / "x-seed4.npz"}
    assert "1 of 2 videos are finished and stay" in capsys.readouterr().out
    assert load_file(tmp_path / names[0])["latents"].shape == (1, 16, 3, 8, 12)


def test_prompts_and_seeds_make_the_videos_that_each_makes_alone(wan, tmp_path, latents):
    flags = SMALL | dict(steps=2, negative_prompt="blurred")
    prompts, seeds = (*SMALL["prompt"], ""), (3, 5)
    config = Config(model=wan, out=tmp_path / "all.npz", **flags | dict(prompt=prompts, seed=seeds))
    reports = Generation(config).run()
    assert [path.name for path in reports] == [
        "all-0001-seed3.npz",
        "all-0001-seed5.npz",
        "all-0002-seed3.npz",
        "all-0002-seed5.npz",
    ]
    report = json.loads((tmp_path / "all-0002-seed5.json").read_text())
    assert (report["config"]["prompt"], report["config"]["seed"]) == ("", 5)
    alone = Config(model=wan, out=tmp_path / "one.npz", **flags | dict(prompt=("",), seed=(5,)))
    Generation(alone).run()
    np.testing.assert_array_equal(latents["one.npz"][0], latents["all.npz"][3])
    assert len({x.tobytes() for x in latents["all.npz"]}) == 4


@pytest.mark.usefixtures("latents")
def test_latents_that_are_given_are_the_noise(wan, tmp_path, monkeypatch):
    started = []

    def stop(self, noise, rows):
        started.append(np.asarray(noise))
        raise Interrupted

    monkeypatch.setattr("models.pipelines.Denoiser.start", stop)
    monkeypatch.setattr("models.pipelines.Denoiser.compile", lambda *a: {None: Memory(1, 1, 1)})
    noise = np.random.default_rng(0).normal(size=(2, 16, 3, 8, 12)).astype(np.float32)
    np.savez(tmp_path / "noise.npz", noise)
    flags = SMALL | dict(prompt=("a", "b"), seed=(), latents=tmp_path / "noise.npz")
    run = Generation(Config(model=wan, out=tmp_path / "x.mp4", **flags))
    for job in run.jobs:
        with pytest.raises(Interrupted):
            run._denoise(job, "dense", None, None)
    np.testing.assert_array_equal(np.concatenate(started), noise)


@pytest.mark.usefixtures("latents")
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


@pytest.mark.usefixtures("latents")
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(lora=("no.safetensors",)), FileNotFoundError, r"no file no\.safetensors"),
        (dict(attention="nothing"), ValueError, "attention='nothing' is no method"),
        (dict(attention="sta", dense_layers=(2,)), ValueError, "dense_layers"),
        (dict(memory_gib=0.001), NotEnoughMemory, "do not fit"),
    ],
)
def test_mistakes_are_refused_before_anything_runs(
    wan, tmp_path, change, error, message, monkeypatch
):
    monkeypatch.setattr(
        "models.pipelines.Denoiser.compile", lambda *a: {None: Memory(2**20, 2**20, 0)}
    )
    config = Config(**{"model": wan, "out": tmp_path / "x.mp4", **SMALL, **change})
    with pytest.raises(error, match=message):
        Generation(config)
    assert not list(tmp_path.iterdir())


def test_a_lora_that_does_not_fit_is_refused_before_anything_is_compiled(
    wan, tmp_path, monkeypatch
):
    def compile(*arguments):
        raise AssertionError("compiled before the LoRA was looked at")

    monkeypatch.setattr("models.pipelines.Denoiser.compile", compile)
    path = tmp_path / "lora.safetensors"
    save_file({"transformer.nothing.lora_A.weight": np.zeros((2, 32), np.float32)}, path)
    with pytest.raises(ValueError, match=r"lora\.safetensors"):
        Generation(Config(model=wan, lora=(f"{path}:0.5",), out=tmp_path / "x.mp4", **SMALL))


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
    flags = SMALL | dict(prompt=(), guidance=1.0, steps=2)
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
    flags = SMALL | dict(prompt=(), steps=2, attention="sta", out=tmp_path / "clip.mp4")
    flags |= dict(tile="off", scheduler="unipc", dense_last_steps=1)
    with pytest.raises(
        ValueError, match=r"text encoders .* run in torch only; make an embeddings file"
    ):
        Generation(Config(model=folder, **flags | dict(prompt=("a cat",))))
    generate.main(Config(model=folder, embeddings=tmp_path / "text.npz", **flags))
    assert read(tmp_path / "clip.mp4").shape == (9, 64, 96, 3)


def test_cogvideox_runs_from_a_prompt(tmp_path):
    folder = folders.cogvideox(tmp_path / "model", version="1.5")
    flags = SMALL | dict(steps=2, attention="sparse-vdit", tile="on", out=tmp_path / "clip.mp4")
    dtypes = dict(dtype="bfloat16", vae_dtype="float32", text_dtype="float32")
    generate.main(Config(model=folder, scheduler="ddim", fps="24000/1001", **dtypes, **flags))
    assert read(tmp_path / "clip.mp4").shape == (9, 64, 96, 3)
