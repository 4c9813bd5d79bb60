"""Lists as they were before padding was left out of them: results must be the same without it, bit for bit."""

import contextlib
import dataclasses
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels import BlockMask, _real_lists

_of = _real_lists.of


def of(mask, length_q, length_kv, *, tile, step):
    """`_real_lists.of` with every listed block, real or not."""
    bare = dataclasses.replace(mask, q_lengths=None, kv_lengths=None)
    lengths = mask.num_q_blocks * mask.block_q, mask.num_kv_blocks * mask.block_kv
    lists = _of(bare, *lengths, tile=tile, step=step)
    sizes = _real_lists.sizes(mask.kv_lengths, length_kv, mask.block_kv, step)
    return dataclasses.replace(lists, sizes=sizes)


@contextlib.contextmanager
def lists():
    """Kernels that are traced inside walk them."""
    with mock.patch.object(_real_lists, "of", of):
        yield


def problem(block_q, block_kv, dtype, *, heads, head_dim):
    """q, k, v, d_out, d_lse and a mask: full, partial and empty rows, lengths of each batch row with
    empty blocks and parts, and a sequence that ends inside its last block."""
    rng = np.random.default_rng(0)
    keep = np.array([[True, True], [False, True], [False, False]])
    keep = np.stack([keep, keep[::-1]])[None, :heads]
    q_lengths = np.array([[[block_q, block_q // 3, 0]], [[0, 9, block_q // 2]]], np.int32)
    kv_lengths = np.array([[[block_kv // 3, block_kv]], [[0, block_kv // 2]]], np.int32)
    mask = BlockMask.from_dense(
        keep, block_q=block_q, block_kv=block_kv, q_lengths=q_lengths, kv_lengths=kv_lengths
    )
    lq, lk = 3 * block_q - block_q // 2, 2 * block_kv - block_kv // 4
    shapes = [(2, n, heads, head_dim) for n in (lq, lk, lk, lq)]
    arrays = [jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes]
    d_lse = jnp.asarray(rng.standard_normal((2, heads, lq)), jnp.float32)
    return *arrays, d_lse, mask


def everything(attend):
    """out, lse, dq, dk, dv of attend(q, k, v, mask), as a function of `problem`; traced anew."""

    def run(q, k, v, d_out, d_lse, mask):
        results, vjp = jax.vjp(lambda q, k, v: attend(q, k, v, mask), q, k, v)
        return *results, *vjp((d_out, d_lse))

    return run
