"""What is refused, or said, before anything is compiled. The folder has no weights: none are needed so far."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from experiments.generation import checkpoint
from experiments.generation.generate_flags import Config
from experiments.generation.request import read_request, settings_of
from experiments.generation.store import Denoised, save_latents
from models.text_embeddings import TextEmbeddings, save_embeddings

from . import folders

SMALL = dict(frames=9, height=64, width=96, steps=4, prompt=("a cat",))
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def wan(tmp_path_factory):
    return folders.wan(tmp_path_factory.mktemp("wan"), weights=False)


@pytest.fixture(scope="module")
def wan_image(tmp_path_factory):
    return folders.wan(tmp_path_factory.mktemp("wan_image"), image=True, weights=False)


@pytest.fixture
def weights(monkeypatch):
    """Headers that fit; the parts that were asked for."""
    asked = []

    def check_weights(folder, part, *, dtype=None, variant=None):
        asked.append((part, variant))
        return []

    monkeypatch.setattr(checkpoint.models, "check_weights", check_weights)
    return asked


@pytest.fixture
def ask(wan, tmp_path, weights):
    def ask(**flags):
        return read_request(Config(**{"model": wan, "out": tmp_path / "x.mp4"} | SMALL | flags))

    return ask


def embeddings(path, rows=1, tokens=512, **more):
    shape = (rows, tokens, folders.TEXT_DIM)
    arrays = {name: RNG.normal(size=shape) for name in ("prompt_embeds", "negative_prompt_embeds")}
    arrays = {name: array.astype(np.float32) for name, array in (arrays | more).items()}
    save_embeddings(path, TextEmbeddings(**arrays))
    return dict(embeddings=path, prompt=())


@pytest.mark.parametrize(
    ("flags", "error", "message"),
    [
        (dict(frames=10), ValueError, r"frames=10: Wan makes 1 \+ 4 k frames; ask for 9 or 13"),
        (dict(height=70), ValueError, r"height=70 must be a multiple of 16 .* ask for 64 or 80"),
        (dict(prompt=()), ValueError, "no --prompt and no --embeddings"),
        (dict(model=Path(__file__)), NotADirectoryError, "is a file, not a folder"),
        (dict(image=Path(__file__)), ValueError, "text-to-video model; leave --image out"),
        (dict(embeddings=Path(__file__), prompt=()), ValueError, r"must end in \.safetensors or"),
        (dict(latents=Path(__file__)), ValueError, r"must end in \.safetensors, \.npz or"),
        (dict(out=Path("x.gif")), ValueError, r"x\.gif must be NAME\.mp4, NAME\.npz"),
        (dict(compare=True), ValueError, "which --attention is already"),
        (dict(dense_layers=(1,)), ValueError, "--dense-layers says what stays dense of a sparse"),
        (dict(fps=500), ValueError, "fps=500 must be a number from"),
        (dict(fps="24000/0"), ValueError, "fps=24000/0 must be a number from"),
        (
            dict(implementation="fast"),
            ValueError,
            "--implementation fast cannot run dense .*choose reference or xla",
        ),
        (dict(cfg=2, guidance=1.0), ValueError, r"cfg=2 must divide the rows .* here 1 .* leave"),
        (dict(cfg=3), ValueError, r"cfg=3 must divide the rows .* here 2"),
        (dict(scheduler="DDIM"), ValueError, "scheduler='DDIM'"),
        (dict(steps=10**9), ValueError, r"num_steps=1000000000 must lie in 1\.\.1000, the noise"),
        (
            dict(shift=1e-30),
            ValueError,
            r"flow_shift=1e-30 must lie in 0\.01\.\.100; 1 means no shift",
        ),
        (dict(prompt=("a", "\udcff")), ValueError, "'.udcff' holds bytes that are not UTF-8"),
        (dict(negative_prompt="\udcff"), ValueError, "'.udcff' holds bytes that are not UTF-8"),
    ],
)
def test_what_the_folder_or_the_files_rule_out(ask, weights, flags, error, message, tmp_path):
    with pytest.raises(error, match=message):
        ask(**flags)
    assert not weights  # nothing as dear as headers was looked at
    assert not list(tmp_path.iterdir())


def test_parts_that_are_not_there_are_named(wan, ask, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(wan, copy)
    shutil.rmtree(copy / "tokenizer")
    with pytest.raises(FileNotFoundError, match=r"has no tokenizer/; .* pass precomputed --embed"):
        ask(model=copy)
    shutil.rmtree(copy / "vae")
    with pytest.raises(FileNotFoundError, match=r"lacks vae/config\.json"):
        ask(model=copy)


def test_headers_of_every_part_that_is_needed_are_looked_at(ask, weights, tmp_path):
    ask(variant="fp16")
    assert weights == [("transformer", "fp16"), ("vae", "fp16"), ("text_encoder", "fp16")]
    weights.clear()
    ask(**embeddings(tmp_path / "e.safetensors"))
    assert weights == [("transformer", None), ("vae", None)]


def test_prompts_need_a_tokenizer(ask, monkeypatch, weights):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r"tokenizers is not installed, .* pip install"):
        ask()
    assert not weights


@pytest.mark.parametrize(
    ("more", "tokens", "message"),
    [
        (dict(prompt_embeds=np.ones((1, 9, 8))), 9, "prompt_embeds are 8 wide"),
        ({}, 600, "have 600 tokens, and the transformer takes at most 512"),
    ],
)
def test_embeddings_of_another_model_are_refused(ask, tmp_path, more, tokens, message):
    if more:
        more |= dict(negative_prompt_embeds=np.ones((1, 9, 8)))
    flags = embeddings(tmp_path / "e.npz", tokens=tokens, **more)
    with pytest.raises(ValueError, match=message):
        ask(**flags)


def test_embeddings_of_two_prompts_make_two_videos(ask, tmp_path):
    request = ask(seed=(1, 2), **embeddings(tmp_path / "e.npz", rows=2, tokens=226))
    assert [(job.row, job.seed, job.prompt) for job in request.jobs] == [
        (0, 1, None),
        (0, 2, None),
        (1, 1, None),
        (1, 2, None),
    ]
    conditions = request.planned_conditions()
    assert conditions.inputs["encoder_hidden_states"].shape == (2, 512, folders.TEXT_DIM)


def test_the_empty_prompt_is_a_prompt(ask):
    request = ask(prompt=("",))
    assert [job.prompt for job in request.jobs] == [""]
    assert request.config.negative_prompt == ""


def test_a_damaged_image_is_refused(wan_image, ask, tmp_path):
    path = tmp_path / "first.png"
    Image.fromarray(RNG.integers(0, 255, (64, 96, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-600])
    text = embeddings(tmp_path / "e.npz", image_embeds=np.ones((1, 17, 20)))
    with pytest.raises(ValueError, match=r"first\.png is damaged or cut short"):
        ask(model=wan_image, image=path, **text)
    with pytest.raises(ValueError, match="image-to-video model; give its first frame, --image"):
        ask(model=wan_image, **text)


@pytest.mark.parametrize("guidance", [1.0, 0.5, 0.0])
def test_without_guidance_the_negative_prompt_is_not_used_and_not_named(ask, guidance, capsys):
    request = ask(guidance=guidance, negative_prompt="blurred")
    assert request.config.negative_prompt is None
    assert len(request.planned_conditions().inputs["encoder_hidden_states"]) == 1
    said = capsys.readouterr().out
    assert f"--negative-prompt 'blurred' has no effect: guidance {guidance:g} is off" in said
    assert said.count("warning") == 1
    settings = json.dumps(settings_of(request, request.jobs[0], None))
    assert "blurred" not in settings
    other = ask(guidance=guidance)
    assert settings_of(other, other.jobs[0], None) == json.loads(settings)


def test_given_noise_leaves_seeds_without_effect(ask, tmp_path, capsys):
    path = tmp_path / "noise.npz"
    np.savez(path, latents=np.zeros((1, 16, 3, 8, 12), np.float32))
    request = ask(latents=path, seed=(5,))
    assert request.latents.shape == request.shape
    assert "--seed 5 has no effect: the noise is that of --latents" in capsys.readouterr().out
    with pytest.raises(ValueError, match="--seed 5 6 would make one video 2 times"):
        ask(latents=path, seed=(5, 6))


def test_dtypes_of_the_parts_are_those_of_the_transformer_unless_said(ask, tmp_path):
    config = ask(dtype="bfloat16", vae_dtype="float32").config
    assert (config.dtype, config.vae_dtype, config.text_dtype) == (
        "bfloat16",
        "float32",
        "bfloat16",
    )
    assert ask(**embeddings(tmp_path / "e.npz")).config.text_dtype is None


class TestIdentity:
    """A run goes on only where it would be the same run."""

    @pytest.fixture
    def copy(self, wan, tmp_path):
        return Path(shutil.copytree(wan, tmp_path / "copy"))

    @staticmethod
    def settings(request):
        return settings_of(request, request.jobs[0], None)

    def test_a_model_is_the_same_by_every_path(self, ask, copy, tmp_path, monkeypatch):
        settings = self.settings(ask(model=copy))
        monkeypatch.chdir(tmp_path)
        (tmp_path / "link").symlink_to(copy)
        for path in ("copy", "link", "./copy/../copy", tmp_path / "link"):
            assert self.settings(ask(model=Path(path))) == settings
        assert str(tmp_path) not in json.dumps(settings)

    @pytest.mark.parametrize(
        "name",
        [
            "model_index.json",
            "transformer/config.json",
            "vae/config.json",
            "text_encoder/config.json",
            "tokenizer/tokenizer.json",
            "tokenizer/tokenizer_config.json",
        ],
    )
    def test_a_replaced_file_is_noticed_by_name(self, ask, copy, name):
        settings = self.settings(ask(model=copy))
        with (copy / name).open("a") as file:
            file.write("\n")
        other = self.settings(ask(model=copy))
        assert {k for k in settings if settings[k] != other[k]} == {name}

    def test_another_scheduler_is_noticed_by_what_changed(self, ask, copy):
        settings = self.settings(ask(model=copy))
        path = copy / "scheduler" / "scheduler_config.json"
        path.write_text(path.read_text().replace('"flow_shift": 3.0', '"flow_shift": 5.0'))
        other = self.settings(ask(model=copy))
        assert {k for k in settings if settings[k] != other[k]} == {"scheduler.flow_shift"}
        assert self.settings(ask(model=copy, shift=3.0)) == settings

    def test_a_replaced_lora_or_another_scale_is_noticed(self, ask, tmp_path):
        path, name = tmp_path / "style.safetensors", "lora 1 (style.safetensors)"
        path.write_bytes(b"one")
        first = self.settings(ask(lora=(f"{path}:0.5",)))
        assert self.settings(ask(lora=(path,), lora_scale=0.5)) == first
        path.write_bytes(b"two")
        for entry in (f"{path}:0.5", f"{path}:0.6"):
            other = self.settings(ask(lora=(entry,)))
            assert {k for k in first if first[k] != other[k]} == {name}
            first = other
        (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 4}')
        assert self.settings(ask(lora=(entry,)))[name] != first[name]

    def test_replaced_inputs_are_noticed(self, wan_image, ask, tmp_path):
        image, text, noise = (tmp_path / name for name in ("i.png", "e.npz", "n.npz"))

        def settings(**flags):
            given = dict(image=image, latents=noise, embeddings=text, prompt=())
            return self.settings(ask(model=wan_image, **given, **flags))

        def write():
            for path in (image, text, noise):
                path.unlink(missing_ok=True)
            pixels = RNG.integers(0, 255, (64, 96, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(image)
            embeddings(text, image_embeds=np.ones((1, 17, 20)))
            np.savez(noise, RNG.normal(size=(1, 16, 3, 8, 12)))

        write()
        first = settings()
        assert settings() == first
        assert settings(image_fit="pad") != first
        write()
        changed = {k for k, v in settings().items() if first[k] != v}
        assert changed == {"image", "embeddings", "latents"}


def test_a_video_that_is_there_is_refused_before_the_weights_are_looked_at(ask, weights, tmp_path):
    for name in ("x.mp4", "x.json"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(FileExistsError, match=rf"{name} exists and is not overwritten"):
            ask()
        (tmp_path / name).unlink()
    (tmp_path / "x.mp4").symlink_to("nowhere")
    with pytest.raises(FileExistsError, match=r"x\.mp4 exists and is not overwritten"):
        ask()
    (tmp_path / "x.mp4").unlink()
    (tmp_path / "x-dense.mp4").write_text("mine")
    with pytest.raises(FileExistsError, match=r"x-dense\.mp4 exists"):
        ask(attention="sta", compare=True)
    assert not weights


def test_the_end_of_a_run_as_noise_and_states_of_an_image_without_use_are_said(
    ask, tmp_path, capsys
):
    path = tmp_path / "a.latents.safetensors"
    save_latents(path, Denoised(np.zeros((1, 16, 3, 8, 12), np.float32), []), {})
    text = embeddings(tmp_path / "e.npz", image_embeds=np.ones((1, 17, 20)))
    ask(latents=path, **text)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2
    assert "are the end of a run, and are taken for noise" in said[1]
    assert "image_embeds in" in said[0]


def test_a_model_trained_sparse_runs_as_it_was_trained(wan, tmp_path, weights):
    """Its folder has the tensors of a gate, and so is VSA's by itself; dense is another function."""
    folder = tmp_path / "fast"
    shutil.copytree(wan, folder)
    gate = {"blocks.0.to_gate_compress.weight": np.zeros((1, 1), np.float32)}
    save_file(gate, folder / "transformer" / "diffusion_pytorch_model.safetensors")
    flags = {"model": folder, "out": tmp_path / "x.mp4"} | SMALL
    request = read_request(Config(**flags))
    assert request.config.attention == request.family.transformer.combine == "vsa"
    assert read_request(Config(**flags, attention="vsa")).config.attention == "vsa"
    for change in (dict(attention="dense"), dict(attention="vsa", compare=True)):
        with pytest.raises(
            ValueError, match="was trained with vsa, and dense attention would leave"
        ):
            read_request(Config(**flags, **change))
