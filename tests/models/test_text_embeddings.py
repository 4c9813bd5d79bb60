"""Precomputed embeddings: what files keep, and what is refused."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from models.text_embeddings import TextEmbeddings, load_embeddings, save_embeddings


def whole(dtype=jnp.float32) -> TextEmbeddings:
    rng = np.random.default_rng(0)

    def floats(*shape):
        return jnp.asarray(rng.normal(size=shape), dtype)

    mask = jnp.asarray([[1, 1, 1, 0], [1, 0, 0, 0]], jnp.int32)
    return TextEmbeddings(
        prompt_embeds=floats(2, 4, 6),
        prompt_attention_mask=mask,
        pooled_projections=floats(2, 3),
        image_embeds=floats(2, 5, 7),
        negative_prompt_embeds=floats(2, 4, 6),
        negative_prompt_attention_mask=mask[::-1],
        negative_pooled_projections=floats(2, 3),
    )


def arrays(**changes) -> dict[str, np.ndarray]:
    found = {name: np.asarray(value) for name, value in whole().arrays().items()}
    return {name: value for name, value in (found | changes).items() if value is not None}


@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [
        (".safetensors", jnp.float32),
        (".safetensors", jnp.bfloat16),
        (".safetensors", jnp.float16),
        (".npz", jnp.float32),
        (".npz", jnp.float16),
    ],
)
def test_a_file_gives_back_what_went_in(tmp_path, suffix, dtype):
    path = tmp_path / f"prompts{suffix}"
    save_embeddings(path, whole(dtype))
    got, want = load_embeddings(path), whole(dtype)
    assert got.arrays().keys() == want.arrays().keys()
    assert len(got.arrays()) == len(dataclasses.fields(TextEmbeddings))
    for name, value in want.arrays().items():
        assert got.arrays()[name].dtype == value.dtype, name
        np.testing.assert_array_equal(got.arrays()[name], value)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_only_the_prompt_is_needed(tmp_path, suffix):
    path = tmp_path / f"prompts{suffix}"
    save_embeddings(path, TextEmbeddings(prompt_embeds=jnp.ones((1, 2, 3))))
    assert set(load_embeddings(path).arrays()) == {"prompt_embeds"}
    with pytest.raises(ValueError, match=r"lacks \['pooled_projections'\] and has \['prompt_emb"):
        load_embeddings(path, require=("pooled_projections",))


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int64])
def test_masks_of_any_integers_become_int32(tmp_path, dtype):
    path = tmp_path / "prompts.npz"
    mask = arrays()["prompt_attention_mask"].astype(dtype)
    np.savez(path, **arrays(prompt_attention_mask=mask))
    got = load_embeddings(path).prompt_attention_mask
    assert got is not None
    assert got.dtype == jnp.int32
    np.testing.assert_array_equal(got, whole().prompt_attention_mask)


ZEROS = np.zeros((2, 4), np.int32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt_embeds": None}, r"lacks \['prompt_embeds'\]"),
        ({"prompt_embed": ZEROS}, r"has arrays \['prompt_embed'\]; the names are prompt_embeds,"),
        ({"prompt_embeds": np.ones((4, 6), np.float32)}, r"prompt_embeds .* has shape \[4, 6\]"),
        ({"image_embeds": np.ones((2, 0, 6), np.float32)}, r"image_embeds .* \[2, 0, 6\]"),
        (
            {"pooled_projections": np.ones((2, 1, 3), np.float32)},
            r"pooled_projections .* \[2, 1, 3\]; it must be \[prompts, width\]",
        ),
        ({"prompt_embeds": np.ones((2, 4, 6))}, "prompt_embeds .* is float64; it must be float32"),
        ({"pooled_projections": np.ones((2, 3), np.int32)}, "pooled_projections .* is int32"),
        (
            {"prompt_attention_mask": np.ones((2, 4), np.float32)},
            r"prompt_attention_mask .* is float32\[2, 4\]; it must be integers",
        ),
        ({"prompt_attention_mask": np.ones((2, 5), np.int32)}, r"shape \[2, 5\].* \[2, 4\]"),
        ({"prompt_attention_mask": ZEROS + 2}, "values other than 0 and 1"),
        (
            {"prompt_attention_mask": ZEROS, "pooled_projections": np.ones((2, 3), np.float32)},
            r"prompt_attention_mask .* has rows \[0, 1\] without a 1",
        ),
        (
            {"negative_prompt_attention_mask": np.tile(np.int32([0, 0, 1, 1]), (2, 1))},
            "negative_prompt_attention_mask .* a 1 after a 0; padding must follow",
        ),
        ({"negative_prompt_embeds": None}, "has negative_prompt_attention_mask but no"),
        (
            {"image_embeds": np.ones((1, 5, 7), np.float32)},
            "image_embeds .* has 1 rows for 2 rows of prompt_embeds",
        ),
        (
            {"negative_prompt_embeds": np.ones((2, 4, 5), np.float32)},
            "negative_prompt_embeds .* is 5 wide and prompt_embeds 6",
        ),
        (
            {"pooled_projections": None},
            "negative_pooled_projections .* is 3 wide and pooled_projections absent",
        ),
    ],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_wrong_files_are_refused_by_name(tmp_path, suffix, changes, message):
    path = tmp_path / f"prompts{suffix}"
    if suffix == ".npz":
        np.savez(path, **arrays(**changes))
    else:
        save_file({k: np.ascontiguousarray(v) for k, v in arrays(**changes).items()}, path)
    with pytest.raises(ValueError, match=message):
        load_embeddings(path)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, jnp.bfloat16])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_with_their_rows(tmp_path, dtype, value):
    pooled = np.ones((2, 3), np.float32)
    pooled[1, 2] = value
    path = tmp_path / "x.safetensors"
    save_file(arrays(pooled_projections=pooled.astype(dtype)), path)
    with pytest.raises(ValueError, match=r"pooled_projections .* 1 values .* in rows \[1\]; make"):
        load_embeddings(path)


@pytest.mark.parametrize(("suffix", "kind"), [(".npz", "npz"), (".safetensors", "safetensors")])
@pytest.mark.parametrize("content", [b"", b"no embeddings at all", None])
def test_damaged_files_are_refused(tmp_path, suffix, kind, content):
    path = tmp_path / f"x{suffix}"
    save_embeddings(path, whole())
    path.write_bytes(path.read_bytes()[:-40] if content is None else content)
    with pytest.raises(ValueError, match=rf"x\{suffix} is (not a whole \.?{kind} file|empty)"):
        load_embeddings(path)


def test_bfloat16_has_no_place_in_npz(tmp_path):
    path = tmp_path / "prompts.npz"
    with pytest.raises(ValueError, match=r"prompt_embeds is bfloat16, which \.npz cannot hold"):
        save_embeddings(path, whole(jnp.bfloat16))
    assert not path.exists()
    np.savez(path, prompt_embeds=np.asarray(whole(jnp.bfloat16).prompt_embeds))
    with pytest.raises(ValueError, match=r"is .V2; it must be .* keeps no bfloat16"):
        load_embeddings(path)


def test_files_are_not_guessed_made_up_or_overwritten(tmp_path):
    with pytest.raises(ValueError, match=r"x\.pt must end in \.safetensors or \.npz"):
        load_embeddings(tmp_path / "x.pt")
    with pytest.raises(FileNotFoundError, match="make them with python -m experiments"):
        load_embeddings(tmp_path / "x.npz")
    save_embeddings(tmp_path / "x.npz", whole())
    with pytest.raises(FileExistsError, match="is not overwritten"):
        save_embeddings(tmp_path / "x.npz", whole())


def test_saving_checks_too(tmp_path):
    wrong = dataclasses.replace(whole(), prompt_attention_mask=jnp.ones((2, 4)))
    with pytest.raises(ValueError, match="prompt_attention_mask"):
        save_embeddings(tmp_path / "x.npz", wrong)
    assert not (tmp_path / "x.npz").exists()


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_files_that_were_not_downloaded_are_told(tmp_path, monkeypatch, kind):
    path = tmp_path / f"x.{kind}"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(ValueError, match=rf"x\.{kind} is a Git LFS pointer"):
        load_embeddings(path)
    path.unlink()
    path.symlink_to("../blobs/0123")
    with pytest.raises(FileNotFoundError, match="a link that points nowhere"):
        load_embeddings(path)
    path.unlink()
    save_embeddings(path, whole())
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_embeddings(f"~/x.{kind}").prompt_embeds.shape == whole().prompt_embeds.shape
