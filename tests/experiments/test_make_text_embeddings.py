"""The script that makes embeddings with torch, as far as it goes without torch."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from experiments import make_text_embeddings as script
from models.text_embeddings import load_embeddings

from .test_encoder_files import safetensors


class Array(np.ndarray):
    """A tensor's methods that the script uses on what a pipeline returns."""

    def any(self, axis=None):
        return np.asarray(self).any(axis).view(Array) if axis else np.asarray(self).any()

    def int(self):
        return self.astype(np.int32)

    def detach(self):
        return self

    cpu = contiguous = detach

    def numpy(self):
        return np.asarray(self)


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
            return embeds.view(Array), embeds[:, 0].view(Array), np.minimum(mask, 1).view(Array)
        return embeds.view(Array), None

    def encode_image(self, picture):
        assert picture.mode == "RGB"
        return np.full((1, 5, 4), picture.size[0], np.float32).view(Array)


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
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying, seen standing
    Image.new("RGB", (9, 7)).save(tmp_path / "phone.jpg", exif=exif)
    arrays, _ = embed("wan", image=tmp_path / "phone.jpg", image_encoder=object())
    assert (arrays["image_embeds"] == 7).all()


def folder(tmp_path, name, *, image_encoder=False):
    """A pipeline's folder with everything but sense."""
    index = {"_class_name": name, "vae": [None, None], "boundary_ratio": None}
    index |= {"tokenizer": ["transformers", "T"], "text_encoder": ["transformers", "E"]}
    index["image_encoder"] = ["transformers", "C"] if image_encoder else [None, None]
    index["transformer"] = ["diffusers", "X"]
    for part in ("transformer", "tokenizer", "text_encoder", "image_encoder")[: 3 + image_encoder]:
        (tmp_path / part).mkdir(parents=True)
        (tmp_path / part / "config.json").write_text('{"max_text_seq_length": 224}')
        (tmp_path / part / "model.safetensors").write_bytes(safetensors())
    (tmp_path / "model_index.json").write_text(json.dumps(index))
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


@pytest.fixture
def no_torch(monkeypatch):
    """Nothing of torch may be touched."""
    for name in ("torch", "diffusers", "transformers"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.usefixtures("no_torch")
def test_what_cannot_work_is_said_before_anything_is_read(tmp_path, capsys):
    known = folder(tmp_path / "known", "WanPipeline")
    other = folder(tmp_path / "other", "FluxPipeline")
    taken, gone = tmp_path / "taken.npz", tmp_path / "gone.npz"
    taken.touch()
    gone.symlink_to("nowhere")
    out = tmp_path / "x.npz"
    prompt = ("--prompt", "a")
    before = sorted(tmp_path.rglob("*"))
    for arguments, words in [
        ((tmp_path, out, *prompt), "model_index.json; give a folder"),
        ((other, out, *prompt), "holds a FluxPipeline; this script knows"),
        ((known, "x.pt", *prompt), "x.pt must end in"),
        ((known, taken, *prompt), "taken.npz exists"),
        ((known, gone, *prompt), "gone.npz exists"),
        ((known, taken / "a.npz", *prompt), "taken.npz is a file"),
        ((known, tmp_path / f"{'n' * 255}.npz", *prompt), "cannot be written"),
        ((known, out, "--prompt", "a", "--prompt", "\udcff"), "are not UTF-8"),
        ((known, out, *prompt, "--negative-prompt", "a\udcff"), "first is character 1"),
        ((known, out, *prompt), "No module named 'torch', 'diffusers', 'transformers'"),
        ((known, out, *prompt), "pip install torch diffusers"),
        ((known, tmp_path / "new/x.npz", "--prompt", ""), "No module named"),  # empty is a prompt
    ]:
        error = run(arguments, capsys)
        assert words in error
        assert error.startswith("error: ")
        assert error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.usefixtures("no_torch")
@pytest.mark.parametrize(
    ("name", "asked", "words"),
    [
        ("WanPipeline", 226, "must be 512"),
        ("WanPipeline", 226, "np.pad(x, ((0, 0), (0, 512 - x.shape[1]), (0, 0)))"),
        ("WanImageToVideoPipeline", 0, "must be 512"),
        ("WanPipeline", 512, "No module named"),
        ("CogVideoXPipeline", 226, "must be 224"),
        ("CogVideoXPipeline", 512, "rows cannot be added later"),
        ("CogVideoXImageToVideoPipeline", 224, "No module named"),
        ("HunyuanVideoPipeline", 0, "must be at least 1; 256 is usual"),
        ("HunyuanVideoPipeline", -5, "must be at least 1"),
        ("HunyuanVideoPipeline", 300, "No module named"),
    ],
)
def test_lengths_that_the_model_does_not_take_are_refused(tmp_path, capsys, name, asked, words):
    known = folder(tmp_path / "known", name)
    arguments = (known, tmp_path / "x.npz", "--prompt", "a", "--max-length", asked)
    assert words in run(arguments, capsys)


@pytest.mark.usefixtures("no_torch")
def test_the_first_frame_is_checked_early(tmp_path, capsys):
    text = folder(tmp_path / "text", "WanPipeline")
    image = folder(tmp_path / "image", "WanImageToVideoPipeline", image_encoder=True)
    Image.new("L", (9, 7)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes((tmp_path / "good.png").read_bytes()[:-30])
    (tmp_path / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    for model, picture, words in [
        (text, "good.png", "has no image encoder"),
        (image, None, "give it, --image"),
        (image, "none.png", "No such file"),
        (image, "bad.png", "damaged"),
        (image, "photo.heic", "is HEIC"),
        (image, "good.png", "No module named"),
    ]:
        flags = () if picture is None else ("--image", tmp_path / picture)
        assert words in run((model, tmp_path / "x.npz", "--prompt", "a", *flags), capsys)


@pytest.mark.usefixtures("no_torch")
def test_an_encoder_that_is_not_whole_is_refused(tmp_path, capsys):
    known = folder(tmp_path / "known", "WanImageToVideoPipeline", image_encoder=True)
    arguments = (known, tmp_path / "x.npz", "--prompt", "a")
    (known / "image_encoder/model.safetensors").write_bytes(safetensors(3))
    assert "bytes where its header says" in run(arguments, capsys)
    (known / "text_encoder/model.safetensors").unlink()
    assert "text_encoder has no model.safetensors" in run(arguments, capsys)
    (known / "model_index.json").write_text("{}")
    assert "must name a pipeline in _class_name" in run(arguments, capsys)


@pytest.fixture
def pipeline(monkeypatch):
    """Stands in for torch and all that needs it."""
    pipeline = Pipeline("wan", object())
    monkeypatch.setattr(script, "check_packages", lambda *_: None)
    monkeypatch.setattr(script, "load_pipeline", lambda *_, **__: pipeline)
    return pipeline


@pytest.mark.usefixtures("pipeline")
def test_from_flags_to_a_file_that_models_read(tmp_path, capsys):
    known = folder(tmp_path / "known", "WanImageToVideoPipeline", image_encoder=True)
    Image.new("L", (9, 7)).save(tmp_path / "frame.png")
    out = tmp_path / "new" / "folder:1" / "-x.npz"
    flags = ("--prompt", "ab", "--prompt", "", "--negative-prompt", "")
    script.main([str(a) for a in (known, out, *flags, "--image", tmp_path / "frame.png")])
    got = load_embeddings(out)
    assert got.prompt_embeds.shape == (2, 512, 3)
    assert got.prompt_attention_mask.sum(1).tolist() == [2, 0]
    assert got.negative_prompt_embeds.shape == (2, 512, 3)
    assert got.image_embeds.shape == (2, 5, 4)
    assert [path.name for path in out.parent.iterdir()] == ["-x.npz"]
    said = capsys.readouterr().out
    assert "image_embeds [2, 5, 4]" in said
    assert f"wrote {out}" in said


def test_a_name_that_was_taken_meanwhile_stays_and_the_embeddings_lie_beside_it(tmp_path):
    (tmp_path / "x.npz").write_bytes(b"another's")
    arrays, _ = embed("wan")
    assert script.save(arrays, tmp_path / "x.npz") == tmp_path / "x-2.npz"
    assert load_embeddings(tmp_path / "x-2.npz").prompt_embeds.shape == (2, 6, 3)
    assert (tmp_path / "x.npz").read_bytes() == b"another's"


@pytest.mark.filterwarnings("ignore:invalid value")  # of numpy; torch has none
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_encoder_that_overflows_leaves_no_file(tmp_path, capsys, pipeline, monkeypatch, bad):
    known = folder(tmp_path / "known", "WanPipeline")
    encode = pipeline.encode_prompt

    def overflow(*arguments, **settings):
        embeds, _ = encode(*arguments, **settings)
        embeds[0, 0, 0] = bad
        return embeds, None

    monkeypatch.setattr(pipeline, "encode_prompt", overflow)
    arguments = (known, tmp_path / "x.npz", "--prompt", "a", "--dtype", "float16")
    assert "not finite, after encoding in float16; use --dtype bfloat16" in run(arguments, capsys)
    assert not (tmp_path / "x.npz").exists()
