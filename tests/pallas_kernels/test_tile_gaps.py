import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import BlockMask, block_sparse_attention, tile_gaps
from tests.sparsevdit_jax import oracles

BLOCK_Q, BLOCK_KV, LENGTH = 4, 6, 22
ROWS, COUNT = -(-LENGTH // BLOCK_Q), -(-LENGTH // BLOCK_KV)


def problem():
    rng = np.random.default_rng(0)
    q, k, v = rng.standard_normal((3, 2, LENGTH, 3, 8)).astype(np.float32) * 3
    keep = rng.random((2, 3, ROWS, COUNT)) < 0.7
    keep[:, :, 0] = True
    keep[0, 1, 2] = False
    q_lengths = np.full((2, 1, ROWS), BLOCK_Q, np.int32)
    kv_lengths = np.full((2, 1, COUNT), BLOCK_KV, np.int32)
    q_lengths[1, :, 3], kv_lengths[0, :, 1], kv_lengths[1, :, 2] = 0, 0, 5
    q_lengths[:, :, -1], kv_lengths[:, :, -1] = 2, 4
    q[1, 12:16] = k[0, 6:12] = np.nan  # padding
    mask = BlockMask.from_dense(
        keep, block_q=BLOCK_Q, block_kv=BLOCK_KV, q_lengths=q_lengths, kv_lengths=kv_lengths
    )
    return q, k, v, mask, keep


def gaps_one_by_one(q, k, mask, keep, *, descending=False, before=False):
    """Float64, by loops."""
    found = np.full((2, 3, ROWS, COUNT), -np.inf)
    for b, h, i in np.ndindex(2, 3, ROWS):
        for row in range(i * BLOCK_Q, i * BLOCK_Q + mask.q_lengths[b, 0, i]):
            top = -np.inf
            for j in range(COUNT)[:: -1 if descending else 1]:
                size = mask.kv_lengths[b, 0, j]
                if not keep[b, h, i, j] or not size:
                    continue
                keys = k[b, j * BLOCK_KV : j * BLOCK_KV + size, h].astype(float)
                tile = (keys @ q[b, row, h].astype(float)).max() * 8**-0.5
                gap = tile - (top if before else max(top, tile))
                found[b, h, i, j] = max(found[b, h, i, j], gap)
                top = max(top, tile)
    return found


@pytest.mark.parametrize(
    "walk", [{}, dict(descending=True, before=True), dict(before=True)], ids=str
)
def test_gaps_are_those_of_a_walk(monkeypatch, walk):
    # The function has the module's name.
    monkeypatch.setattr(importlib.import_module("pallas_kernels.tile_gaps"), "_LOGITS", 2 * 4 * 24)
    q, k, _, mask, keep = problem()
    found = jax.jit(lambda q, k: tile_gaps(q, k, mask, **walk))(q, k)
    want = gaps_one_by_one(q, k, mask, keep, **walk)
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("implementation", ["xla", "reference"])
def test_far_blocks_are_left_out_of_the_softmax_and_of_its_gradients(implementation):
    q, k, v, mask, keep = problem()
    needed = gaps_one_by_one(q, k, mask, keep) >= np.log(0.3)
    assert 0.1 < needed.sum() / keep.sum() < 0.9
    less = BlockMask.from_dense(
        needed,
        block_q=BLOCK_Q,
        block_kv=BLOCK_KV,
        q_lengths=mask.q_lengths,
        kv_lengths=mask.kv_lengths,
    )
    q, k = (jnp.nan_to_num(x) for x in (q, k))

    def run(mask, **kwargs):
        def call(q, k, v):
            return block_sparse_attention(q, k, v, mask, implementation=implementation, **kwargs)

        found, vjp = jax.vjp(call, q, k, v)
        return *found, *vjp((jnp.ones_like(found[0]) * v, jnp.ones_like(found[1])))

    got, want = jax.jit(lambda: run(mask, skip_below=0.3))(), jax.jit(lambda: run(less))()
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    token = np.repeat(np.repeat(needed, BLOCK_Q, 2), BLOCK_KV, 3)[:, :, :LENGTH, :LENGTH]
    real = [np.asarray(x(LENGTH)) for x in (mask.real_queries, mask.real_keys)]
    token = token & real[0][..., None] & real[1][:, :, None]
    out, lse = oracles.masked_attention(q, k, v, token)
    np.testing.assert_allclose(got[0], out, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(got[1], lse, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("implementation", ["mosaic_gpu", "triton"])
def test_kernels_that_compute_every_block_refuse(implementation):
    q, k, v, mask, _ = problem()
    rule = f"skip_below=0.5: {implementation} computes every listed block .* 'xla' or 'reference'"
    with pytest.raises(NotImplementedError, match=rule):
        block_sparse_attention(q, k, v, mask, skip_below=0.5, implementation=implementation)


@pytest.mark.parametrize("value", [0.0, 1.5, True])
def test_what_is_no_share_is_refused(value):
    q, k, v, mask, _ = problem()
    with pytest.raises(ValueError, match=r"skip_below=.* must lie in \(0, 1\]; None skips nothing"):
        block_sparse_attention(q, k, v, mask, skip_below=value)
