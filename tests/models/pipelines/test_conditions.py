import jax.numpy as jnp
import numpy as np
import pytest

from models.pipelines.conditions import check_text, text_rows
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
    with pytest.raises(
        ValueError, match="2 tokens of width 3, but this transformer takes 5 tokens of width 4"
    ):
        check_text(a, 5, 4)
