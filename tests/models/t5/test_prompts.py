"""Each model's way from prompts to embeddings."""

import jax.numpy as jnp
import numpy as np
import pytest

from models.t5 import encode_cogvideox_prompts, encode_wan_prompts
from models.text_embeddings import load_embeddings, save_embeddings
from tests import tolerances
from tests.models.t5.encoders import encoder, roundings, run

PROMPTS = ["  Cat &amp; dog ", "a"]


def letters(prompts, max_length):
    """A tokenizer: letters are ids, 1 closes, 0 fills."""
    ids = np.zeros((len(prompts), max_length), np.int32)
    for row, prompt in enumerate(prompts):
        codes = [*(ord(letter) % 60 + 2 for letter in prompt[: max_length - 1]), 1]
        ids[row, : len(codes)] = codes
    return ids, (ids > 0).astype(np.int32)


@pytest.mark.parametrize("encode", [encode_wan_prompts, encode_cogvideox_prompts])
def test_ids_beyond_the_vocabulary_are_refused(encode):
    def tokenizer(prompts, max_length):
        ids, mask = letters(prompts, max_length)
        ids[0, 0] = 64
        return ids, mask

    model = encoder("umt5")
    assert model.config.vocab_size == 64
    with pytest.raises(ValueError, match="gives id 64, but the text encoder's vocabulary is 64"):
        encode(tokenizer, model, PROMPTS, max_length=16)


def test_wan_hides_padding_and_zeroes_it():
    model = encoder("umt5")
    got = encode_wan_prompts(letters, model, PROMPTS, max_length=16)
    ids, mask = letters(["Cat & dog", "a"], 16)
    np.testing.assert_array_equal(got.prompt_attention_mask, mask)
    states = np.asarray(run(model, jnp.asarray(ids), jnp.asarray(mask)))
    np.testing.assert_array_equal(got.prompt_embeds, states * mask[..., None])
    assert not np.asarray(got.prompt_embeds)[mask == 0].any()
    assert np.abs(states[mask == 0]).max() > 0.1
    assert set(got.arrays()) == {"prompt_embeds", "prompt_attention_mask"}


def test_cogvideox_sees_padding_and_keeps_it():
    model = encoder("t5v11")
    got = encode_cogvideox_prompts(letters, model, PROMPTS, max_length=16)
    ids, mask = letters(PROMPTS, 16)
    want, n = run(model, jnp.asarray(ids)), roundings("t5v11", 16)
    tolerances.assert_rounding_apart(got.prompt_embeds, want, n, "two programs of one encoder")
    hidden = run(model, jnp.asarray(ids), jnp.asarray(mask))
    assert np.abs(np.asarray(got.prompt_embeds - hidden))[mask > 0].max() > 0.05
    assert np.abs(np.asarray(got.prompt_embeds)[mask == 0]).max() > 0.1
    assert set(got.arrays()) == {"prompt_embeds"}


@pytest.mark.parametrize("encode", [encode_wan_prompts, encode_cogvideox_prompts])
def test_negative_prompts_are_encoded_alike_and_can_be_kept(encode, tmp_path):
    model = encoder("umt5")
    both = encode(letters, model, PROMPTS, negative_prompts=["", "b"], max_length=16)
    negative = encode(letters, model, ["", "b"], max_length=16)
    for name, value in negative.arrays().items():
        np.testing.assert_array_equal(both.arrays()[f"negative_{name}"], value)
    save_embeddings(tmp_path / "prompts.safetensors", both)
    again = load_embeddings(tmp_path / "prompts.safetensors")
    assert again.arrays().keys() == both.arrays().keys()


@pytest.mark.parametrize(
    ("encode", "length"), [(encode_wan_prompts, 512), (encode_cogvideox_prompts, 226)]
)
def test_lengths_are_the_pipelines(encode, length):
    def tokenizer(prompts, max_length):
        raise OverflowError(max_length)

    with pytest.raises(OverflowError, match=str(length)):
        encode(tokenizer, None, PROMPTS)


@pytest.mark.parametrize("encode", [encode_wan_prompts, encode_cogvideox_prompts])
def test_a_string_is_not_a_list_of_prompts(encode):
    with pytest.raises(TypeError, match="prompts='a cat' must be a list"):
        encode(letters, None, "a cat")
    with pytest.raises(ValueError, match="negative_prompts='b' must be a list of 2"):
        encode(letters, None, PROMPTS, negative_prompts="b")
    with pytest.raises(ValueError, match=r"negative_prompts=\[''\] must be a list of 2"):
        encode(letters, None, PROMPTS, negative_prompts=[""])
