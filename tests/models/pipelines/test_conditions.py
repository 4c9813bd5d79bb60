import jax.numpy as jnp
import numpy as np
import pytest

from models.pipelines.conditions import check_width, fill_text, text_rows
from models.text_embeddings import TextEmbeddings


def test_rows_are_the_prompt_above_the_negative_prompt():
    a, b = jnp.ones((1, 2, 3)), jnp.zeros((1, 2, 3))
    text = TextEmbeddings(prompt_embeds=a, negative_prompt_embeds=b)
    np.testing.assert_array_equal(text_rows(text, "prompt_embeds", True), jnp.concatenate([a, b]))
    np.testing.assert_array_equal(text_rows(text, "prompt_embeds", False), a)
    with pytest.raises(
        ValueError, match="lack negative_prompt_embeds; guidance needs a negative prompt"
    ):
        text_rows(TextEmbeddings(prompt_embeds=a), "prompt_embeds", True)
    longer = TextEmbeddings(prompt_embeds=a, negative_prompt_embeds=jnp.zeros((1, 4, 3)))
    with pytest.raises(ValueError, match=r"are \[2, 3\] a prompt and negative_.* \[4, 3\]; both"):
        text_rows(longer, "prompt_embeds", True)
    with pytest.raises(ValueError, match=r"image_embeds are 3 wide, .* takes 4; make them with"):
        check_width("image_embeds", a, 4)


def test_short_embeddings_are_filled_with_zeros_and_what_the_mask_hides_is_zero():
    mask = jnp.asarray([[1, 0]], jnp.int32)
    text = TextEmbeddings(
        prompt_embeds=jnp.ones((1, 2, 3)),
        prompt_attention_mask=mask,
        negative_prompt_embeds=jnp.full((1, 3, 3), 2.0),
    )
    filled = fill_text(text, 4)
    np.testing.assert_array_equal(filled.prompt_embeds[0, :, 0], [1, 0, 0, 0])
    np.testing.assert_array_equal(filled.prompt_attention_mask, [[1, 0, 0, 0]])
    np.testing.assert_array_equal(filled.negative_prompt_embeds[0, :, 1], [2, 2, 2, 0])
    with pytest.raises(ValueError, match=r"negative_prompt_embeds have 3 tokens, .* at most 2: .*"):
        fill_text(text, 2)
