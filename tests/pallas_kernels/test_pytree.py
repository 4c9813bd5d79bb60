import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels._pytree import pytree, static


@pytree
class Weighted:
    values: jax.Array
    weights: jax.Array | None
    name: str = static(default="none")

    def __post_init__(self):
        if self.values.ndim != 1:
            raise ValueError("values must be a vector")


def test_construction_checks_and_transformations_do_not():
    tree = Weighted(jnp.arange(3.0), None, "a")
    with pytest.raises(ValueError, match="vector"):
        Weighted(jnp.zeros((2, 2)), None)
    assert jax.tree.map(lambda x: x.shape, tree).values == (3,)
    stacked = jax.tree.map(lambda x: jnp.stack([x, x]), tree)
    assert stacked.values.shape == (2, 3)
    total = jax.vmap(lambda t: t.values.sum())(stacked)
    np.testing.assert_array_equal(total, [3, 3])


def test_is_frozen_and_static_fields_are_structure():
    tree = Weighted(jnp.zeros(2), jnp.ones(2), "a")
    with pytest.raises(dataclasses.FrozenInstanceError):
        tree.name = "b"
    assert len(jax.tree.leaves(tree)) == 2
    assert jax.tree.structure(tree) != jax.tree.structure(dataclasses.replace(tree, name="b"))
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    assert paths == [".values", ".weights"]


def test_survives_jit_scan_and_grad():
    tree = Weighted(jnp.arange(2.0), jnp.ones(2), "a")
    assert jax.jit(lambda t: t)(tree).name == "a"
    carried, _ = jax.lax.scan(lambda t, _: (jax.tree.map(lambda x: x + 1, t), None), tree, length=3)
    np.testing.assert_array_equal(carried.values, [3, 4])
    assert jax.grad(lambda t: (t.values * t.weights).sum())(tree).values.shape == (2,)
