import time

import hypothesis
import hypothesis.extra.numpy
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from pallas_kernels import BlockMask

BLOCKS = {"block_q": 4, "block_kv": 8}
keeps = hypothesis.extra.numpy.arrays(
    bool, st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 6), st.integers(1, 7))
)


@hypothesis.given(keeps)
def test_from_dense_and_back(keep):
    mask = BlockMask.from_dense(keep, **BLOCKS)
    np.testing.assert_array_equal(mask.to_dense(), keep)
    slots = np.arange(mask.capacity)
    for row, count in zip(
        mask.kv_indices.reshape(-1, mask.capacity), mask.kv_counts.ravel(), strict=True
    ):
        if count < mask.num_kv_blocks:
            assert (np.diff(row[slots < count]) > 0).all()


@hypothesis.given(keeps)
def test_transpose_swaps_the_sides(keep):
    mask = BlockMask.from_dense(keep, **BLOCKS)
    turned = mask.transpose()
    np.testing.assert_array_equal(turned.to_dense(), keep.swapaxes(-1, -2))
    assert (turned.block_q, turned.block_kv) == (8, 4)
    np.testing.assert_array_equal(turned.transpose().to_dense(), keep)


@hypothesis.given(keeps, st.randoms(use_true_random=False))
def test_density_counts_real_token_pairs(keep, random):
    b, h, nq, nk = keep.shape
    q_lengths = np.array([random.randint(0, 4) for _ in range(h * nq)], np.int32).reshape(1, h, nq)
    kv_lengths = np.array([random.randint(0, 8) for _ in range(b * nk)], np.int32).reshape(b, 1, nk)
    mask = BlockMask.from_dense(keep, **BLOCKS, q_lengths=q_lengths, kv_lengths=kv_lengths)
    pairs = (q_lengths[..., None] * kv_lengths[:, :, None]) * np.ones_like(keep, np.int64)
    expected = (pairs * keep).sum() / max(pairs.sum(), 1)
    np.testing.assert_allclose(mask.density(), expected, rtol=1e-6)
    per_head = (pairs * keep).sum((0, 2, 3)) / np.maximum(pairs.sum((0, 2, 3)), 1)
    np.testing.assert_allclose(mask.density(per_head=True), per_head, rtol=1e-6)


def test_the_same_inside_a_program():
    keep = np.random.default_rng(0).random((1, 2, 5, 6)) < 0.4
    keep[0, 0, 2] = True
    lengths = np.array([8, 3, 0, 8, 8, 1], np.int32)

    @jax.jit
    def program(keep):
        mask = BlockMask.from_dense(keep, **BLOCKS, kv_lengths=lengths)
        return mask.to_dense(), mask.transpose().to_dense(), mask.density()

    host = BlockMask.from_dense(keep, **BLOCKS, kv_lengths=lengths)
    dense, turned, density = program(keep)
    np.testing.assert_array_equal(dense, keep)
    np.testing.assert_array_equal(turned, keep.swapaxes(-1, -2))
    np.testing.assert_allclose(density, host.density(), rtol=1e-6)
    np.testing.assert_allclose(jax.jit(lambda m: m.density())(host), host.density(), rtol=1e-6)


def test_a_small_capacity_is_an_error_outside_and_a_truncation_inside():
    keep = np.array([[1, 1, 1, 0], [1, 1, 1, 1], [0, 1, 0, 1]], bool)
    with pytest.raises(ValueError, match="capacity=2 would drop kept blocks: a row keeps 3 of 4"):
        BlockMask.from_dense(keep, **BLOCKS, capacity=2)
    mask = jax.jit(lambda k: BlockMask.from_dense(k, **BLOCKS, capacity=2))(keep)
    np.testing.assert_array_equal(mask.to_dense()[0, 0], [[1, 1, 0, 0], [1, 1, 1, 1], [0, 1, 0, 1]])
    np.testing.assert_array_equal(mask.kv_counts[0, 0], [2, 4, 2])


def test_full_rows_need_no_capacity():
    keep = np.zeros((3, 9), bool)
    keep[1], keep[2, 4] = True, True
    mask = BlockMask.from_dense(keep, **BLOCKS)
    assert mask.capacity == 1
    np.testing.assert_array_equal(mask.to_dense()[0, 0], keep)
    full = BlockMask.full(3, 9, **BLOCKS)
    assert np.asarray(full.to_dense()).all()
    assert full.density() == 1


def test_heads_are_merged_and_taken():
    rng = np.random.default_rng(1)
    keep = rng.random((2, 3, 4, 5)) < 0.5
    shared = BlockMask.from_dense(keep[:1, :1], **BLOCKS, kv_lengths=np.array([8, 8, 8, 8, 3]))
    own = BlockMask.from_dense(keep, **BLOCKS)
    merged = BlockMask.concat_heads([shared, own], num_heads=[2, 3])
    assert merged.batch_and_heads == (2, 5)
    dense = np.concatenate([np.broadcast_to(keep[:1, :1], (2, 2, 4, 5)), keep], 1)
    np.testing.assert_array_equal(merged.to_dense(), dense)
    np.testing.assert_array_equal(merged.kv_lengths[0, :, -1], [3, 3, 8, 8, 8])
    np.testing.assert_array_equal(merged.take_heads([4, 0]).to_dense(), dense[:, [4, 0]])
    traced = jax.jit(lambda m, heads: m.take_heads(heads).to_dense())(merged, jnp.array([3, 1]))
    np.testing.assert_array_equal(traced, dense[:, [3, 1]])
    assert shared.take_heads([5, 7]).batch_and_heads == (1, 1)


def test_a_production_mask_builds_in_milliseconds():
    keep = np.random.default_rng(0).random((24, 300, 300)) < 0.2
    start = time.process_time()
    mask = BlockMask.from_dense(keep, block_q=384, block_kv=384)
    assert time.process_time() - start < 0.2
    assert mask.kv_indices.nbytes < 100e6


def test_real_tokens():
    mask = BlockMask.full(2, 1, **BLOCKS, q_lengths=np.array([2, 4]))
    np.testing.assert_array_equal(mask.real_queries(7)[0, 0], [1, 1, 0, 0, 1, 1, 1])
    assert mask.real_keys(8) is None


def test_picture():
    keep = np.eye(3, dtype=bool)
    assert BlockMask.from_dense(keep, **BLOCKS).draw(head=5) == "#..\n.#.\n..#"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block_q": 0}, "block_q=0 must be a whole number of at least 1"),
        ({"keep": np.ones((2, 2))}, r"keep is float64 \(2, 2\); it must be bool"),
        ({"keep": np.ones(2, bool)}, r"keep is bool \(2,\)"),
        ({"capacity": 0}, "capacity=0 must be at least 1"),
        (
            {"q_lengths": np.array([1, 2, 3])},
            r"q_lengths is int32 .*must be int32 \[B\|1, H\|1, 2\]",
        ),
        ({"q_lengths": np.array([1, 5])}, "q_lengths spans 1..5; a block of 4 tokens holds 0 to 4"),
        ({"kv_lengths": np.array([-1, 2])}, "kv_lengths spans -1..2"),
        ({"kv_lengths": jnp.ones((1, 1, 2))}, r"kv_lengths is float32"),
    ],
)
def test_bad_masks_are_refused(change, message):
    arguments = {"keep": np.ones((2, 2), bool), **BLOCKS} | change
    with pytest.raises(ValueError, match=message):
        BlockMask.from_dense(arguments.pop("keep"), **arguments)


def test_bad_lists_and_merges_are_refused():
    indices, counts = np.zeros((1, 1, 2, 3), np.int32), np.zeros((1, 1, 2), np.int32)
    with pytest.raises(
        ValueError, match=r"kv_indices \(1, 1, 2, 3\) must be .*kv_counts \(1, 1, 1\)"
    ):
        BlockMask(indices, counts[..., :1], **BLOCKS, num_kv_blocks=3)
    with pytest.raises(ValueError, match="kv_counts has dtype int64; make it int32"):
        BlockMask(indices, counts.astype(np.int64), **BLOCKS, num_kv_blocks=3)
    with pytest.raises(ValueError, match="lists block 0 twice"):
        BlockMask(indices, counts + 2, **BLOCKS, num_kv_blocks=3)
    masks = [BlockMask.full(2, n, **BLOCKS) for n in (2, 3)]
    with pytest.raises(ValueError, match="cannot be merged; give all heads the same blocks"):
        BlockMask.concat_heads(masks)


def test_lengths_are_optional_and_names_are_required():
    keep = np.array([[0, 1, 0], [1, 0, 0]], bool)  # no row lists the last block
    indices, counts = np.array([[[[1], [0]]]], np.int32), np.ones((1, 1, 2), np.int32)
    mask = BlockMask(indices, counts, **BLOCKS, num_kv_blocks=3)
    jax.tree.map(np.testing.assert_array_equal, mask, BlockMask.from_dense(keep, **BLOCKS))
    lengths = np.array([[[8, 8, 3]]], np.int32)
    mask = BlockMask(indices, counts, kv_lengths=lengths, **BLOCKS, num_kv_blocks=3)
    leaves, structure = jax.tree.flatten(mask)
    assert all(leaf is part for leaf, part in zip(leaves, (indices, counts, lengths), strict=True))
    again = jax.tree.unflatten(structure, leaves)
    assert again.q_lengths is None
    assert again.kv_lengths is lengths
    with pytest.raises(TypeError, match="positional"):
        BlockMask(indices, counts, None, None, 4, 8, 3)
    with pytest.raises(TypeError, match="num_kv_blocks"):
        BlockMask(indices, counts, **BLOCKS)
