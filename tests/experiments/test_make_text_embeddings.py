"""The script that makes embeddings with torch, as far as it goes without torch."""

import importlib.util
import json

import numpy as np
import pytest
from PIL import Image

from experiments import make_text_embeddings as script
from models.text_embeddings import load_embeddings


class Array(np.ndarray):
    """A tensor's methods that the script uses on what a pipeline returns."""

    def any(self, axis):
        return np.asarray(self).any(axis).view(Array)


class Pipeline:
    """Embeds a prompt as its length, in the calling conventions of the three families."""

    def __init__(self, family, image_encoder=None):
        self.family, self.image_encoder = family, image_encoder
        self.calls = []

    def encode_prompt(self, prompts, **settings):
        self.calls.append((prompts, settings))
        length = settings["max_sequence_length"]
        embeds = np.zeros((len(prompts), length, 3), np.float32)
        mask = np.zeros((len(prompts), length), np.int64)
        for row, prompt in enumerate(prompts):
            embeds[row, : len(prompt)] = mask[row, : len(prompt)] = len(prompt)
        if self.family == "hunyuan":
            return embeds, embeds[:, 0], np.minimum(mask, 1)
        return embeds.view(Array), None

    def encode_image(self, picture):
        return np.full((1, 5, 4), picture.size[0], np.float32)


def embed(family, **changes):
    pipeline = Pipeline(family, changes.pop("image_encoder", None))
    settings = {"negative_prompt": None, "image": None, "max_length": 6} | changes
    return script.embed(pipeline, family, ["ab", "abcd"], **settings), pipeline


def write_npz(path, arrays):
    """What `save` writes, without torch."""
    np.savez(
        path,
        **{
            name: np.asarray(array).astype(np.int32) if name.endswith("_mask") else array
            for name, array in arrays.items()
        },
    )


@pytest.mark.parametrize(
    ("family", "names"),
    [
        ("wan", {"prompt_embeds", "prompt_attention_mask"}),
        ("cogvideox", {"prompt_embeds"}),
        ("hunyuan", {"prompt_embeds", "prompt_attention_mask", "pooled_projections"}),
    ],
)
def test_arrays_are_those_that_models_read(family, names, tmp_path):
    arrays, _ = embed(family)
    assert set(arrays) == names
    arrays, pipeline = embed(family, negative_prompt="x")
    assert set(arrays) == names | {f"negative_{name}" for name in names}
    assert [prompts for prompts, _ in pipeline.calls] == [["ab", "abcd"], ["x", "x"]]
    write_npz(tmp_path / "prompts.npz", arrays)
    got = load_embeddings(tmp_path / "prompts.npz")
    assert got.prompt_embeds.shape == (2, 6, 3)
    if got.prompt_attention_mask is not None:
        assert got.prompt_attention_mask.sum(1).tolist() == [2, 4]


def test_an_image_goes_with_every_prompt(tmp_path):
    Image.new("L", (9, 7)).save(tmp_path / "frame.png")
    arrays, _ = embed("wan", image=tmp_path / "frame.png", image_encoder=object())
    assert arrays["image_embeds"].shape == (2, 5, 4)
    assert (arrays["image_embeds"] == 9).all()
    with pytest.raises(ValueError, match="Pipeline has no image encoder"):
        embed("wan", image=tmp_path / "frame.png")


def folder(tmp_path, name):
    (tmp_path / "transformer").mkdir(parents=True)
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": name, "vae": [None] * 2}))
    (tmp_path / "transformer/config.json").write_text('{"max_text_seq_length": 224}')
    return tmp_path


def test_text_lengths(tmp_path):
    lengths = {name: script.text_length(folder(tmp_path / name, name)) for name in script.PIPELINES}
    assert lengths["WanPipeline"] == lengths["WanImageToVideoPipeline"] == 512
    assert lengths["HunyuanVideoPipeline"] == 256
    assert lengths["CogVideoXPipeline"] == 224  # CogVideoX 1.5 may differ: read, not assumed
    (tmp_path / "CogVideoXPipeline/transformer/config.json").unlink()
    assert script.text_length(tmp_path / "CogVideoXPipeline") == 226


def run(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        script.main([str(argument) for argument in arguments])
    assert stop.value.code == 1
    return capsys.readouterr().err


def test_what_cannot_work_is_said_before_anything_is_read(tmp_path, capsys):
    known = folder(tmp_path / "known", "WanPipeline")
    other = folder(tmp_path / "other", "FluxPipeline")
    taken = tmp_path / "taken.npz"
    taken.touch()
    prompt = ("--prompt", "a")
    assert "model_index.json; give a folder" in run([tmp_path, "x.npz", *prompt], capsys)
    assert "holds a FluxPipeline; this script knows" in run([other, "x.npz", *prompt], capsys)
    assert "x.pt must end in" in run([known, "x.pt", *prompt], capsys)
    assert "taken.npz exists" in run([known, taken, *prompt], capsys)
    if importlib.util.find_spec("torch") is None:
        error = run([known, tmp_path / "x.npz", *prompt], capsys)
        assert "No module named 'torch'" in error
        assert "pip install torch diffusers" in error
