"""`--lora FILE[:SCALE]`, through the command line's own parser."""

from pathlib import Path

import pytest

from experiments import command
from experiments.generation.generate_flags import Config
from experiments.generation.lora import lora_files


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("A.safetensors", "B.safetensors", "a:b.safetensors", "style:2"):
        Path(name).write_bytes(b"x")
    Path("adapter").mkdir()


def parsed(arguments):
    seen = []
    command.run(seen.append, Config, arguments=["--model", "m", *arguments.split()])
    return seen[0]


@pytest.mark.parametrize(
    ("arguments", "files"),
    [
        ("", []),
        ("--lora A.safetensors", [("A.safetensors", 1.0)]),
        ("--lora A.safetensors:0.8 B.safetensors", [("A.safetensors", 0.8), ("B.safetensors", 1)]),
        (
            "--lora A.safetensors --prompt cat --lora B.safetensors:0.5 A.safetensors:-1",
            [("A.safetensors", 1.0), ("B.safetensors", 0.5), ("A.safetensors", -1.0)],
        ),
        ("--lora=A.safetensors:2 --lora=B.safetensors", [("A.safetensors", 2), ("B.safetensors", 1)]),
        (
            "--lora A.safetensors B.safetensors:1e-1 --lora-scale 0.3",
            [("A.safetensors", 0.3), ("B.safetensors", 0.1)],
        ),
        ("--lora a:b.safetensors a:b.safetensors:.5", [("a:b.safetensors", 1), ("a:b.safetensors", 0.5)]),
        ("--lora style:2 style:2:3 adapter:0", [("style:2", 1), ("style:2", 3), ("adapter", 0)]),
    ],
)  # fmt: skip
def test_files_and_their_scales(folder, arguments, files):
    config = parsed(arguments)
    assert config.model == Path("m")
    assert lora_files(config.lora, config.lora_scale) == [(Path(p), s) for p, s in files]


@pytest.mark.parametrize(
    ("entry", "error", "message"),
    [
        ("C.safetensors", FileNotFoundError, "no file C.safetensors; give --lora a"),
        ("C.safetensors:0.5", FileNotFoundError, "no file C.safetensors; give --lora a"),
        ("A.safetensors:nan", ValueError, "its scale must be a finite number"),
        ("A.safetensors:-inf", ValueError, "its scale must be a finite number"),
        ("A.safetensors:half", ValueError, "'half' must be a number, such as A.safetensors:0.8"),
        ("A.safetensors:", ValueError, "'' must be a number, such as A.safetensors:0.8"),
        ("a:b.safetensors:x", ValueError, "'x' must be a number, such as a:b.safetensors:0.8"),
    ],
)
def test_wrong_files_and_scales_are_named(folder, entry, error, message):
    with pytest.raises(error, match=message):
        lora_files((entry,), 1.0)


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_the_scale_of_the_others_is_finite_too(scale):
    with pytest.raises(ValueError, match=r"must be a finite number, such as 0\.8"):
        lora_files((), scale)


def test_paths_are_taken_as_well_as_text(folder):
    assert lora_files((Path("A.safetensors"),), 2.0) == [(Path("A.safetensors"), 2.0)]
    assert lora_files((Path("A.safetensors:0.5"),), 2.0) == [(Path("A.safetensors"), 0.5)]
