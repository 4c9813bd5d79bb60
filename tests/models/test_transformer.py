"""What all transformers have in common."""

import dataclasses

import jax
import pytest

from models import TransformerOutput
from sparsevdit_jax import Phase, SparseAttention, StepContext, VideoGrid
from sparsevdit_jax.patterns import AdaSpa
from tests.models.transformers import FAMILIES, TEXT, abstract


@pytest.mark.parametrize("family", FAMILIES)
def test_dense_or_sparse_the_output_is_one_object(family):
    """Its states have the structure of those that went in, so that a compiled step takes them again."""
    model, inputs, shape = abstract(family)
    grid = model.grid(shape, TEXT)
    attention = SparseAttention.uniform(AdaSpa(0.3, 16), model.num_attention_layers)
    states = jax.eval_shape(lambda: attention.init(grid, batch=2, num_heads=2, head_dim=16))

    def run(model, inputs, states):
        ctx = StepContext(grid, Phase.REUSE)
        sparse = model(**inputs, attention=attention, states=states, ctx=ctx)
        return model(**inputs), sparse

    for out, given in zip(jax.eval_shape(run, model, inputs, states), ((), states), strict=True):
        assert isinstance(out, TransformerOutput)
        assert out.sample.shape == shape
        assert jax.tree.structure(out.states) == jax.tree.structure(given)
        assert jax.tree.leaves(out.states) == jax.tree.leaves(given)


@pytest.mark.parametrize(
    ("family", "usual", "asked"),
    [("tiny", TEXT, None), ("wan", 0, 0), ("hunyuan_video", 256, 5), ("cogvideox", TEXT, 5)],
)
def test_one_signature_gives_every_family_s_grid(family, usual, asked):
    model, _, shape = abstract(family)
    expected = VideoGrid(4, 4, 6, text_len=usual, text_first=family == "cogvideox")
    assert model.grid(shape) == model.grid(shape, None) == expected
    if asked is None:
        with pytest.raises(ValueError, match="text_len=5 must be condition_tokens=8"):
            model.grid(shape, 5)
    else:
        assert model.grid(shape, text_len=5) == dataclasses.replace(expected, text_len=asked)


def test_layers_are_counted_in_the_order_in_which_they_run():
    counts = {name: abstract(name)[0].num_attention_layers for name in FAMILIES}
    assert counts == {"tiny": 1, "wan": 1, "hunyuan_video": 2, "cogvideox": 1}
