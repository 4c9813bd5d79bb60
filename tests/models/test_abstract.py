import jax
import jax.numpy as jnp
from flax import nnx

from models import abstract, layers


def test_a_planned_model_has_shapes_alone_and_is_made_once():
    def linear(config, *, dtype, rngs):
        return layers.Linear(*config, dtype=dtype, rngs=rngs)

    model = abstract.planned(linear, (2, 3), jnp.dtype("bfloat16"))
    leaves = jax.tree.leaves(nnx.state(model))
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)
    assert (model.kernel.shape, model.kernel.dtype) == ((2, 3), jnp.bfloat16)
    assert abstract.planned(linear, (2, 3), jnp.dtype("bfloat16")) is model
    to_fill = abstract.without_weights(linear, (2, 3), jnp.dtype("bfloat16"))
    assert jax.tree.leaves(nnx.state(to_fill)) == leaves
    to_fill.kernel.set_value(jnp.ones((2, 3), jnp.bfloat16))
    assert jax.tree.leaves(nnx.state(model)) == leaves
