"""What all transformers have in common."""

import jax
import pytest

from models import TransformerOutput
from sparsevdit_jax import Phase, SparseAttention, StepContext
from sparsevdit_jax.patterns import AdaSpa
from tests.models.transformers import FAMILIES, TEXT, abstract


def grid_of(family, model, shape):
    return (
        model.grid(shape, TEXT) if family in ("hunyuan_video", "cogvideox") else model.grid(shape)
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_dense_or_sparse_the_output_is_one_object(family):
    """Its states have the structure of those that went in, so that a compiled step takes them again."""
    model, inputs, shape = abstract(family)
    grid = grid_of(family, model, shape)
    layers = getattr(model, "num_attention_layers", model.config.num_layers)
    attention = SparseAttention.uniform(AdaSpa(0.3, 16), layers)
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
