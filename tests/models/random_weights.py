"""Models with random weights, made without compiling an initialiser for every shape."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from models.abstract import without_weights


def random_model(cls, config, *, dtype=jnp.float32, seed=0):
    """A `cls(config)` with the weights of `random_module`."""
    return _filled(without_weights(cls, config, dtype), seed)


def random_module(cls, *args, seed=0, **kwargs):
    """A `cls(*args, rngs=, **kwargs)` whose matrices are normal over sqrt(fan in), scales about 1 and biases small."""
    return _filled(nnx.eval_shape(lambda: cls(*args, rngs=nnx.Rngs(0), **kwargs)), seed)


def _filled(model, seed):
    rng = np.random.default_rng(seed)
    for path, leaf in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        shape = leaf.shape
        value = rng.standard_normal(shape, np.float32)
        if path[-1] in ("scale", "gamma"):
            value = 1 + 0.2 * value
        elif len(shape) < 2:
            value = 0.05 * value
        else:
            value /= np.sqrt(np.prod(shape[:-1]))
        leaf.set_value(jnp.asarray(value, leaf.dtype))
    assert not any(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(nnx.state(model)))
    return model
