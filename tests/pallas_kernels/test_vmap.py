import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import BlockMask, _vmap


@pytest.mark.parametrize("list_batch", [1, 2])
@pytest.mark.parametrize("axes", [(0, 0), (0, None), (None, 0), (1, 1)], ids=str)
def test_vmap_becomes_batch(axes, list_batch):
    rng = np.random.default_rng(0)
    draw = [rng.integers(0, 9, (2, *shape)) for shape in ((3, 4), (3, 4), (3,))]
    draw[2] = rng.integers(0, 9, (list_batch, 3))
    calls = []

    def function(data, lists):
        calls.append((data[0].shape, lists[0].shape))
        return data[0] * lists[0][..., None] + data[1], data[1].sum(-1)

    def one(x, lists):
        return _vmap.merge_vmap(function)((x, jnp.asarray(draw[1])), (lists,))

    arguments = [
        jnp.asarray(x) if axis is None else jnp.stack([x, x + 1, 2 * x], axis)
        for x, axis in zip((draw[0], draw[2]), axes, strict=True)
    ]
    got = jax.vmap(one, axes)(*arguments)
    shapes = calls[-1]
    for i in range(3):
        alone = [
            x if axis is None else jnp.take(x, i, axis)
            for x, axis in zip(arguments, axes, strict=True)
        ]
        for a, b in zip(one(*alone), got, strict=True):
            np.testing.assert_array_equal(a, b[i])
    assert shapes[0] == (6, 3, 4)
    assert shapes[1] == ((1, 3) if axes[1] is None and list_batch == 1 else (6, 3))


def ragged_mask():
    keep = np.random.default_rng(0).random((2, 3, 4, 5)) < 0.4
    lengths = np.full((1, 1, 4), 3, np.int32)
    return BlockMask.from_dense(keep, block_q=8, block_kv=8, q_lengths=lengths)


def test_numpy_arrays_of_a_mask_stay_known_and_others_are_traced():
    mask = ragged_mask()
    constants, others = _vmap.split(mask)
    assert others == ()
    assert isinstance(constants.mask(others).transpose().kv_indices, np.ndarray)
    lengths = jnp.asarray(mask.q_lengths)
    constants, others = _vmap.split(dataclasses.replace(mask, q_lengths=lengths))
    assert len(others) == 1
    assert constants.mask(others).q_lengths is lengths
    assert isinstance(constants.mask(others).kv_counts, np.ndarray)


def test_lists_are_known_together_or_not_at_all():
    mask = dataclasses.replace(ragged_mask(), kv_counts=jnp.asarray(ragged_mask().kv_counts))
    constants, others = _vmap.split(mask)
    again = constants.mask(others)
    assert all(isinstance(x, jax.Array) for x in (again.kv_indices, again.kv_counts))


@pytest.mark.parametrize("constant", [True, False], ids=["numpy", "arrays"])
def test_a_mask_repeats_with_the_batch_that_vmap_merges(constant):
    mask = ragged_mask() if constant else jax.tree.map(jnp.asarray, ragged_mask())
    seen = []

    def kept(x, mask):
        seen.append(x.shape)
        dense = jnp.asarray(mask.to_dense()) & jnp.ones((x.shape[0], 1, 1, 1), bool)
        return (x * dense.sum((1, 2, 3)),)

    def one(x):
        constants, others = _vmap.split(mask)
        return _vmap.call(kept, constants, (x,), others)[0]

    x = jnp.arange(6).reshape(3, 2)
    np.testing.assert_array_equal(jax.vmap(one)(x), jnp.stack([one(row) for row in x]))
    assert (6,) in seen


def test_counts_that_vmap_does_not_vary_follow_indices_that_it_does():
    mask = jax.tree.map(
        jnp.asarray, BlockMask.from_dense(np.eye(3, dtype=bool), block_q=8, block_kv=8)
    )
    indices = jnp.stack([mask.kv_indices, (mask.kv_indices + 1) % 3])

    def kept(x, mask):
        assert mask.kv_indices.shape[:3] == mask.kv_counts.shape  # Triton strides both alike
        return x[:, None] * mask.to_dense().argmax(-1)[:, 0]

    def one(indices):
        constants, others = _vmap.split(dataclasses.replace(mask, kv_indices=indices))
        return _vmap.call(kept, constants, (jnp.ones(1, int),), others)

    np.testing.assert_array_equal(jax.vmap(one)(indices)[:, 0], [[0, 1, 2], [1, 2, 0]])
