"""What a search refuses, or reads, before anything is loaded or measured."""

import functools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from experiments.search import subjects
from experiments.search.__main__ import main
from experiments.search.search_flags import Config, without_effect
from experiments.search.subjects import make_subject
from sparsevdit_jax import codec
from sparsevdit_jax.patterns import AdaSpa, Diagonal, Skip, SlidingTile

from .cases import SMALL, STA


@pytest.fixture
def wan(checkpoints, tmp_path, monkeypatch):
    """A copy to damage, of which no weights are loaded."""
    for name in (
        "models.pipelines.wan.load_text_encoder",
        "experiments.search.subjects.load_transformer",
    ):
        monkeypatch.setattr(name, lambda *a, **k: pytest.fail("loaded"))
    return Path(shutil.copytree(checkpoints["wan"]["model"], tmp_path / "wan"))


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        ("transformer/diffusion_pytorch_model.safetensors", ValueError, "not a whole safetensors"),
        ("text_encoder/model.safetensors", ValueError, "not a whole safetensors file"),
        ("tokenizer", FileNotFoundError, "has no tokenizer/; .* pass precomputed --embeddings"),
        ("out", NotADirectoryError, "out is a file, so .*attention.json cannot be"),
    ],
)
def test_what_generate_checks_first_a_search_does_too(
    checkpoints, wan, damage, error, message, tmp_path
):
    path = wan / damage
    if damage == "out":
        (tmp_path / "out").write_text("mine")
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.write_bytes(path.read_bytes()[:-9])
    flags = {**SMALL, **STA, **checkpoints["wan"], "model": wan}
    with pytest.raises(error, match=message):
        main(Config(method="sta", out=tmp_path / "out", **flags))
    assert not (tmp_path / "out").is_dir()


def test_every_row_of_embeddings_is_a_prompt(checkpoints, tmp_path):
    flags = {**SMALL, **checkpoints["hunyuan_video"]}
    one, _ = flags.pop("embeddings")
    text = np.load(one)
    two = tmp_path / "two.npz"
    np.savez(two, **{name: np.concatenate([text[name]] * 2) for name in text.files})
    subject = make_subject(Config(method="sta", embeddings=(one, two), **flags))
    assert subject.prompts == ("text0", "two-0001", "two-0002")
    short = tmp_path / "short.npz"
    np.savez(short, **{n: x[:, :4] if x.ndim > 2 or "mask" in n else x for n, x in text.items()})
    with pytest.raises(ValueError, match=r"tokens \(5 in text0, 4 in short\).* one call"):
        make_subject(Config(method="sta", embeddings=(one, short), **flags))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (dict(method="mixture"), "needs its budget"),
        (dict(method="sta", density=1.5), "must lie in"),
        (dict(method="sparse-vdit", rounds=0), "at least 1"),
        (dict(method="sta", prompts=("cat",)), "must be digits"),
        (dict(method="sta", prompts=("2",), held_out=1), "leaves none of 1 prompts"),
        (dict(method="sta", held_out=9), "leaves none of 4 prompts"),
        (dict(method="sta", held_out=-1), "must not be negative"),
        (dict(method="sta", guidance=float("nan")), "guidance=nan must be a finite number"),
        (dict(method="sta", seed=-1), "seed=-1 must lie in"),
        (dict(method="sta", seed=2**32 - 2, prompts=("1", "2", "3")), "seed=4294967296 must lie"),
        (dict(method="sta", dense_steps=-1), "dense_steps=-1 must be at least 0"),
        (dict(method="sta", shift=0.0), r"shift=0\.0 must be a finite number above 0"),
        (dict(method="sta", negative_prompt="x"), "--negative-prompt has no effect"),
        (dict(method="sta", prompts=("\udcff",)), "'.udcff' holds bytes that are not UTF-8"),
        (dict(method="sta", steps=0), "steps=0 must be at least 1"),
        (dict(method="sta", save_every=0), "save_every=0 must be at least 1"),
        (dict(method="sta", name="a/b"), "name='a/b' must be letters"),
        (dict(method="sparse-vdit", lam=float("inf")), "lam=inf must be a finite number from 0"),
        (dict(method="sparse-vdit", lam=-1.0), r"lam=-1\.0 must be a finite number from 0 on"),
        (dict(method="sparse-vdit", epsilon=float("nan")), "epsilon=nan must be above 0"),
        (dict(method="sparse-vdit", epsilon=0.0), r"epsilon=0\.0 must be above 0"),
        (dict(method="sta", embeddings=(Path("a.npz"),)), "embeddings are for a --model"),
        (dict(method="sta", candidates=Path("nowhere.json")), "no file nowhere.json for --cand"),
        (dict(method="mixture", density=0.2, costs=Path("no.json")), "no file no.json for --costs"),
        (dict(method="sta", tile=(0, 1, 1)), r"tile=\(0, 1, 1\) must have 1 to \(16, 16, 16\)"),
        (dict(method="sta", tile=(64, 64, 64)), "choose a smaller --tile"),
        (dict(method="mixture", density=0.2, block=4096), "block=4096 puts all 4096 tokens"),
        (dict(method="sta", windows=((9, 9, 9),)), "no candidate leaves anything out"),
        (dict(method="sta", dense_steps=15), "no step counts"),
        (dict(method="mixture", density=0.2, dense_steps=15), "no step counts"),
        (dict(method="mixture", density=0.2, steps=1), "no step counts"),
    ],
)
@pytest.mark.filterwarnings("ignore:SlidingTile window")  # one flag is larger than the canvas
def test_bad_flags_are_refused_before_anything_is_measured(flags, message, tmp_path, monkeypatch):
    monkeypatch.setattr(subjects, "load_tiny", lambda *a, **k: _tiny())
    with pytest.raises(ValueError, match=message):
        main(Config(out=tmp_path / "out", **flags))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (dict(method="sta"), []),
        (dict(method="sta", density=0.5), ["--density 0.5 has no effect with --method sta"]),
        (dict(method="sparse-vdit", rounds=3), ["--rounds 3 has no effect without --density"]),
        (dict(method="sparse-vdit", rounds=3, density=0.5, costs=Path(__file__)), []),
        (
            dict(method="mixture", density=0.5, shared=True, lam=1.0),
            ["--lam 1.0 has no effect with --method mixture", "--shared True has no effect with"],
        ),
        (
            dict(method="mixture", density=0.5, candidates=Path(__file__), block=9),
            ["--block 9 has no effect with --candidates"],
        ),
        (dict(method="sta", variant="fp16"), ["--variant fp16 has no effect without --model"]),
    ],
)
def test_flags_without_effect_are_said(flags, said):
    lines = without_effect(Config(**flags))
    assert len(lines) == len(said)
    assert all(line.startswith(start) for line, start in zip(lines, said, strict=True))


@pytest.mark.parametrize(
    ("text", "method", "message"),
    [
        ('{"a": [', "sta", "holds no list of patterns .*write one as in attention.json"),
        ("[]", "sta", "must hold a list of patterns"),
        ("[" * 200_000, "sta", "holds no list of patterns .*write one as in attention.json"),
        ("[1, 2]", "sta", "must hold a list of patterns"),
        ([Diagonal(0.5, 64), Diagonal(0.25, 32)], "sparse-vdit", "blocks of different"),
        ([AdaSpa(0.2, 64, False)], "sparse-vdit", "AdaSpa"),
        ([SlidingTile((4, 4, 4), (1, 1, 1)), Skip()], "sta", "Skip.* is no window .*mixture"),
        ([Diagonal(0.25, 64), Diagonal(0.5, 64)], "sparse-vdit", "density=0.1 is below 0.2.*add"),
        ([Diagonal(0.25, 64), Diagonal(0.5, 64)], "mixture", "density=0.1 is below 0.2.*add"),
    ],
)
def test_bad_candidates_are_refused_before_anything_is_measured(
    text, method, message, tmp_path, monkeypatch
):
    monkeypatch.setattr(subjects, "load_tiny", lambda *a, **k: _tiny())
    path = tmp_path / "candidates.json"
    path.write_text(text if isinstance(text, str) else json.dumps(codec.encode(text)))
    config = Config(method=method, density=0.1, candidates=path, out=tmp_path / "out")
    with pytest.raises(ValueError, match=message):
        main(config)
    assert not (tmp_path / "out").exists()


@functools.cache
def _tiny():
    from flax import nnx

    from models.tiny import TinyConfig, TinyVideoDiT

    return nnx.eval_shape(lambda: TinyVideoDiT(TinyConfig(), rngs=nnx.Rngs(0)))
