"""Files that a user gives: latents, and the tokenizer beside its encoder."""

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save, save_file

from experiments.generation.inputs import one_prompt, read_latents
from models.text_embeddings import TextEmbeddings

SHAPE = (1, 4, 2, 3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("name", ["latents", "anything"])
def test_latents_are_read_from_safetensors(tmp_path, name, dtype):
    x = np.random.default_rng(0).normal(size=SHAPE).astype(dtype)
    save_file({name: x}, tmp_path / "x.safetensors")
    found = read_latents(tmp_path / "x.safetensors", SHAPE, 1)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, x.astype(np.float32))


def test_latents_are_read_from_numpys_files(tmp_path):
    x = np.arange(48, dtype=np.float32).reshape(2, *SHAPE[1:])
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", latents=x, fps=np.float32(3))
    for name in ("x.npy", "x.npz"):
        np.testing.assert_array_equal(read_latents(tmp_path / name, SHAPE, 2), x)


@pytest.mark.parametrize(
    ("name", "arrays", "message"),
    [
        (
            "x.npz",
            {"x": np.zeros((1, 4, 2, 4), np.float32)},
            r"\[1, 4, 2, 4\], but .* \[1, 4, 2, 3\] or",
        ),
        (
            "x.npz",
            {"x": np.zeros((3, 4, 2, 3), np.float32)},
            r"are \[1, 4, 2, 3\] or \[2, 4, 2, 3\]",
        ),
        ("x.npz", {"x": np.zeros(SHAPE, np.int32)}, "holds int32; latents must be float32"),
        ("x.npz", {"x": np.full(SHAPE, np.nan, np.float32)}, "24 values that are NaN or infinite"),
        ("x.npz", {"a": np.zeros(2), "b": np.zeros(2)}, r"holds \['a', 'b'\]; name the array"),
        ("x.safetensors", {"a": np.zeros(2), "b": np.zeros(2)}, "name the array of them `latents`"),
        ("x.pt", {}, r"must end in \.safetensors, \.npz or \.npy"),
        ("x.npy", {}, "cannot be read as latents"),
        ("x.npz", None, "cannot be read as latents"),
        ("x.safetensors", None, "not a whole safetensors file"),
    ],
)
def test_other_latents_are_refused(tmp_path, name, arrays, message):
    path = tmp_path / name
    if arrays and path.suffix == ".npz":
        np.savez(path, **arrays)
    elif arrays:
        save_file(arrays, path)
    else:
        path.write_bytes(b"no latents" if arrays is None else b"")
    with pytest.raises(ValueError, match=message):
        read_latents(path, SHAPE, 2)


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".safetensors"])
def test_latents_that_are_cut_short_are_refused(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    x = np.zeros(SHAPE, np.float32)
    with path.open("wb") as file:
        if suffix == ".npz":
            np.savez(file, x)
        elif suffix == ".npy":
            np.save(file, x)
        else:
            file.write(save({"x": x}))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=rf"x\{suffix} (cannot be read|is not a whole)"):
        read_latents(path, SHAPE, 1)


def test_one_prompt_has_its_rows_of_everything():
    arrays = {"prompt_embeds": np.arange(12).reshape(2, 2, 3), "pooled_projections": np.eye(2)}
    one = one_prompt(TextEmbeddings(**arrays), 1)
    np.testing.assert_array_equal(one.prompt_embeds, arrays["prompt_embeds"][1:])
    np.testing.assert_array_equal(one.pooled_projections, [[0, 1]])
