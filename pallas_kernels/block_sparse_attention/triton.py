"""Block-sparse attention by the Triton kernels of `triton_kernels`: NVIDIA from sm_80, and AMD.

dQ walks the lists of the mask, dK and dV those of the transposed mask.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .. import _checks, _real_lists, _triton_call, _vmap
from ..block_mask import BlockMask

_MAX_HEAD_DIM = 256


def block_sparse_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: BlockMask, *, scale: float, skip_below=None
) -> tuple[jax.Array, jax.Array]:
    """See `api.block_sparse_attention`.

    Raises:
      NotImplementedError: no GPU, no jax_triton, a head dim over 256, or `skip_below`.
    """
    _checks.refuse_skipping("triton", skip_below)
    _triton_call.refuse_unless_available()
    if q.shape[-1] > _MAX_HEAD_DIM:
        raise NotImplementedError(f"triton takes head dims up to 256, not {q.shape[-1]}")
    constants, others = _vmap.split(mask)
    return _attention(scale, constants, q, k, v, others)


class Config(NamedTuple):
    """How a kernel is cut and launched. Tiles are powers of two."""

    tile: int  # tokens of the side that a program computes rows of
    other_tile: int  # tokens of the side that it walks, per step
    num_warps: int
    num_stages: int


class _Limits(NamedTuple):
    """Largest tiles of a kernel, and how many numbers of its result four warps can hold."""

    tile: int
    other_tile: int
    num_stages: int
    four_warps: int


# By width of a head and bytes of a number. Chosen from what ptxas reports: for sm_80 and sm_90 nothing is spilled
# forward, and backward but for eight of 168 cases 4 to 72 bytes (the slow test of tiles names them); shared memory
# stays within the 99 KiB of sm_86 and sm_89.
_LIMITS = {
    "forward": {
        (64, 2): _Limits(128, 64, 3, 8192),
        (128, 2): _Limits(128, 64, 3, 8192),
        (256, 2): _Limits(64, 32, 2, 8192),
        (64, 4): _Limits(64, 32, 2, 0),
        (128, 4): _Limits(32, 32, 2, 0),
        (256, 4): _Limits(32, 16, 2, 4096),
    },
    "backward_q": {
        (64, 2): _Limits(128, 64, 3, 4096),
        (128, 2): _Limits(128, 32, 3, 4096),
        (256, 2): _Limits(32, 32, 2, 4096),
        (64, 4): _Limits(32, 32, 2, 0),
        (128, 4): _Limits(64, 16, 2, 0),
        (256, 4): _Limits(32, 16, 2, 4096),
    },
    "backward_kv": {
        (64, 2): _Limits(128, 64, 3, 2048),
        (128, 2): _Limits(64, 64, 3, 2048),
        (256, 2): _Limits(32, 32, 2, 2048),
        (64, 4): _Limits(64, 32, 2, 512),
        (128, 4): _Limits(64, 16, 2, 0),
        (256, 4): _Limits(32, 16, 2, 0),
    },
}


def heuristics(kernel: str, head_dim: int, dtype: Any, block: int, other_block: int) -> Config:
    """The config of a kernel for blocks of `block` rows that list blocks of `other_block`."""
    width = _width(head_dim)
    limits = _LIMITS[kernel][max(64, width), jnp.dtype(dtype).itemsize]
    tile, other_tile = _fit(block, limits.tile), _fit(other_block, limits.other_tile)
    num_warps = 4 if tile * width <= limits.four_warps else 8
    return Config(tile, other_tile, num_warps, limits.num_stages)


def _width(head_dim: int) -> int:
    return max(16, 1 << (head_dim - 1).bit_length())


def _fit(block: int, largest: int) -> int:
    """The tile that covers a block with the least work; every tile costs 32 tokens extra."""
    tiles = [tile for tile in (128, 64, 32, 16) if tile <= largest]
    return min(tiles, key=lambda tile: -(-block // tile) * (tile + 32))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attention(scale, constants, q, k, v, others):
    return _forward(scale, constants, q, k, v, others)[0]


def _forward(scale, constants, q, k, v, others):
    walk = constants.mask(others)
    out, lse, *terms = _run("forward", scale, walk, (q, k, v), [_like(q), *[_rows(q)] * 3])
    return (out, lse), (q, k, v, others, out, *terms)


def _backward(scale, constants, residuals, cotangents):
    q, k, v, others, out, *terms = residuals
    d_out, d_lse = cotangents
    walk = constants.mask(others)
    data = q, k, v, out, *terms, d_out, d_lse
    dq, delta = _run("backward_q", scale, walk, data, [_like(q), _rows(q)])
    data = q, k, v, *terms, d_out, delta
    dk, dv = _run("backward_kv", scale, walk.transpose(), data, [_like(k), _like(k)])
    return dq, dk, dv, None


_attention.defvjp(_forward, _backward)


def _like(x):
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


def _rows(x):
    return jax.ShapeDtypeStruct((x.shape[0], x.shape[2], x.shape[1]), jnp.float32)


def _run(name, scale, mask, data, out):
    """A kernel of `triton_kernels` over the lists of `mask`, whose queries are the rows."""
    from . import triton_kernels

    q, k = data[:2]
    length, other_length = (k, q) if name == "backward_kv" else (q, k)
    length, other_length = length.shape[1], other_length.shape[1]
    heads, head_dim = q.shape[2:]
    config = heuristics(name, head_dim, q.dtype, mask.block_q, mask.block_kv)
    tiles = {"tile": config.tile, "step": config.other_tile}
    read = _real_lists.of(mask, length, other_length, **tiles)
    row_sizes = _real_lists.sizes(mask.q_lengths, length, mask.block_q, config.tile)
    lists = (
        read.parts,
        read.starts,
        read.counts,
        read.counts if row_sizes is None else row_sizes,  # something to point to
        read.counts if read.sizes is None else read.sizes,
    )
    constants = {
        "SCALE": scale,
        "BINARY_SCALE": max(abs(scale) * math.log2(math.e), 1e-30),
        "HEADS": heads,
        "D": head_dim,
        "BLOCK_D": _width(head_dim),
        "BLOCK": mask.block_q,
        "OTHER_BLOCK": read.part,
        "TILE": config.tile,
        "OTHER_TILE": config.other_tile,
        "ROW_RAGGED": row_sizes is not None,
        "OTHER_RAGGED": read.sizes is not None,
    }

    def launch(data, lists):
        parts, _, counts, row_sizes, other_sizes = lists
        batch = data[0].shape[0]
        numbers = length, other_length
        for array in (parts, counts, row_sizes, other_sizes):
            numbers += _strides(array)
        return _triton_call.call(
            getattr(triton_kernels, name),
            (*data, *lists),
            numbers,
            out=[jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype) for x in out],
            grid=(mask.num_q_blocks * -(-mask.block_q // config.tile), heads, batch),
            num_warps=config.num_warps,
            num_stages=config.num_stages,
            constants=constants,
        )

    return _vmap.merge_vmap(launch)(data, tuple(map(jnp.asarray, lists)))


def _strides(array):
    """Entries from one batch item, and one head, to the next in [B|1, H|1, N, ...]."""
    batch, heads, count = array.shape[:3]
    return (heads * count if batch > 1 else 0), (count if heads > 1 else 0)
