"""Block mass for Hopper through Pallas Mosaic GPU: its shapes and its launch.

`mosaic_gpu_kernel` says how the kernel works.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import _hopper, _interpret, _measured, _padding, _vmap
from . import mosaic_gpu_kernel as device
from ._real_parts import binary_shift, over_real_parts

_KEYS = "block_kv", "tile_kv", "stages"  # fields that a measured table may change


@dataclasses.dataclass(frozen=True)
class Config:
    """How the kernel walks one pair of block sizes.

    Attributes:
      block_q, block_kv: tokens of the kernel's blocks; they divide the caller's.
      tile_kv: keys in one product.
      stages: key tiles in flight.
    """

    block_q: int
    block_kv: int
    tile_kv: int
    stages: int

    @property
    def rows(self) -> int:
        """Query rows of a thread block."""
        return device.CONSUMERS * device.ROWS

    @property
    def parts(self) -> int:
        """Query blocks in the rows of one consumer."""
        return device.ROWS // self.block_q

    @property
    def pieces(self) -> int:
        """Key blocks of a tile."""
        return self.tile_kv // self.block_kv

    def smem_bytes(self, head_dim: int) -> int:
        """Shared memory of the kernel for 16-bit arrays, barriers included."""
        half, single, rows = jnp.dtype("bfloat16"), jnp.dtype("float32"), self.rows
        barriers = device.CONSUMERS + 2 * self.stages
        return _hopper.smem_bytes(
            [
                ((rows, head_dim), half),
                ((self.stages, self.tile_kv, head_dim), half),
                ((rows,), single),
                ((rows, device.ENTRIES), single),
                ((device.CONSUMERS, device.ENTRIES), single),
                ((2 * barriers,), single),
            ]
        )


def heuristics(head_dim: int, block_q: int, block_kv: int) -> Config:
    """The walk for the caller's blocks, multiples of 32 tokens.

    The kernel's blocks are the caller's, or the largest divisors that it has a walk for: a consumer's
    64 rows, or halves of them, make a query block.

    Raises:
      NotImplementedError: a block is not a multiple of 32.
    """
    for name, block in (("block_q", block_q), ("block_kv", block_kv)):
        if block % 32:
            raise NotImplementedError(
                f"mosaic_gpu takes blocks of multiples of 32 tokens, not {name}={block}"
            )
    inner_q = next(size for size in (64, 32) if block_q % size == 0)
    inner_kv = next(size for size in (128, 64, 32) if block_kv % size == 0)
    return Config(inner_q, inner_kv, tile_kv=128, stages=384 // head_dim)


def configure(head_dim: int, block_q: int, block_kv: int, dtype: Any = "bfloat16") -> Config:
    """The walk to use: the heuristics', with what a measured table says of it.

    Raises:
      NotImplementedError: as `heuristics`.
      ValueError: an entry of the table is no walk of these blocks, or does not fit shared memory.
    """
    chosen = heuristics(head_dim, block_q, block_kv)

    def check(config):
        if dataclasses.replace(config, **_of_keys(chosen)) != chosen:
            raise ValueError(f"{config} must walk rows as {chosen} does; only {_KEYS} may differ")
        inner, tile = config.block_kv, config.tile_kv
        if inner % 32 or block_kv % inner or tile % inner or device.ENTRIES % config.pieces:
            raise ValueError(
                f"{config} must have a block_kv of a multiple of 32 keys that divides {block_kv}, and a "
                "tile_kv of 1, 2, 4, ... of them"
            )
        _hopper.refuse_misfit(config, head_dim)

    return _measured.override(chosen, check, "block_mass", head_dim, block_q, block_kv, dtype)


def _of_keys(config):
    return {name: getattr(config, name) for name in _KEYS}


def shipped_configs() -> list[tuple[int, Config]]:
    """Head dim and walk of every block size class, for checks of the compiled kernel."""
    pairs = (
        (32, 32),
        (64, 64),
        (128, 64),
        (128, 128),
        (192, 192),
        (256, 256),
        (384, 128),
        (384, 384),
    )
    return [(d, heuristics(d, *pair)) for d in _hopper.HEAD_DIMS for pair in pairs]


def block_mass(
    q: jax.Array,
    k: jax.Array,
    lse: jax.Array,
    *,
    block_q: int,
    block_kv: int,
    scale: float,
    q_lengths: jax.Array | None,
    kv_lengths: jax.Array | None,
) -> jax.Array:
    """See `api.block_mass`. Refuses what it has no tiles for, and other devices."""
    _hopper.refuse_unless_available()
    blocks = {"block_q": block_q, "block_kv": block_kv}
    lengths = {"q_lengths": q_lengths, "kv_lengths": kv_lengths}
    run = functools.partial(_block_mass, scale=scale)
    return over_real_parts(run, q, k, lse, **blocks, **lengths)


def _block_mass(q, k, lse, *, block_q, block_kv, scale, q_lengths, kv_lengths):
    config = configure(q.shape[-1], block_q, block_kv, q.dtype)
    given = [x for x in (q_lengths, kv_lengths) if x is not None]

    def merged(data, lengths):
        left = iter(lengths)
        both = (None if x is None else next(left) for x in (q_lengths, kv_lengths))
        return mass(*data, config, block_q, block_kv, scale, *both)

    return _vmap.merge_vmap(merged)((q, k, lse), tuple(map(jnp.asarray, given)))


def mass(q, k, lse, config, block_q, block_kv, scale, q_lengths, kv_lengths):
    """The same without a look at the device, so that it can be lowered and compiled anywhere.

    Costs outside the kernel: with lengths, or a length that is no multiple of what a block of
    threads takes, copies of the arrays with zeros for padding; for blocks larger than the kernel's, a
    sum over those.
    """
    _hopper.refuse_unless_supported(q)
    b, lq, h, _ = q.shape
    lk = k.shape[1]
    padded_q, padded_kv = lq + -lq % config.rows, lk + -lk % config.tile_kv
    real_q = _padding.real_tokens(q_lengths, block_q, lq)
    real_kv = _padding.real_tokens(kv_lengths, block_kv, lk)
    shift = _padding.lengthen(binary_shift(lse, real_q), padded_q, np.inf, axis=2)
    q = _padding.lengthen(_padding.zero(q, real_q), padded_q)
    k = _padding.lengthen(_padding.zero(k, real_kv), padded_kv)
    pieces = None
    if lk % config.block_kv or kv_lengths is not None:  # else padding has blocks of its own
        real_kv = jnp.ones((1, 1, lk), bool) if real_kv is None else jnp.asarray(real_kv)
        pieces = _padding.lengthen(real_kv, padded_kv, axis=2)
        pieces = pieces.reshape(*pieces.shape[:2], -1, config.block_kv).sum(-1, dtype=jnp.int32)
    sums = launch(config, scale, q, k, shift, pieces)
    nq, nk = -(-lq // block_q), -(-lk // block_kv)
    parts = block_q // config.block_q, block_kv // config.block_kv
    wanted = nq * parts[0], nk * parts[1]
    extra = ((0, max(n - have, 0)) for n, have in zip(wanted, sums.shape[2:], strict=True))
    sums = jnp.pad(sums, ((0, 0), (0, 0), *extra))[:, :, : wanted[0], : wanted[1]]
    return sums.reshape(b, h, nq, parts[0], nk, parts[1]).sum((3, 5))


@_hopper.in_32_bits
def launch(config, scale, q, k, shift, pieces, *, without=""):
    """The kernel alone.

    Args:
      config: the walk.
      scale: factor on the logits.
      q: [B, Lq, H, D], Lq a multiple of `config.rows`; zeros where padded.
      k: [B, Lk, H, D], Lk a multiple of `config.tile_kv`; zeros where padded.
      shift: float32 [B, H, Lq], lse in base 2, inf for a query without mass.
      pieces: int32 [B|1, H|1, Lk / block_kv], real keys of each block, or None for all.
      without: name of a wait or arrival to leave out, to test that it is needed.

    Returns:
      float32 [B, H, Lq / block_q, Lk / block_kv].
    """
    from jax.experimental.pallas import mosaic_gpu as plgpu

    b, lq, h, d = q.shape
    factor = np.float32(scale * _hopper.LOG2E)
    count = k.shape[1] // config.tile_kv
    problem = device.Problem(config, factor, count, _interpret.active(), without)
    consumers, entries = device.CONSUMERS, device.ENTRIES
    scratch = device.Scratch(
        _hopper.smem((consumers, device.ROWS, d), q.dtype),
        _hopper.smem((config.stages, config.tile_kv, d), q.dtype),
        plgpu.SMEM((consumers, device.ROWS), jnp.float32),
        plgpu.SMEM((consumers, entries, device.ROWS), jnp.float32),
        plgpu.SMEM((consumers, entries), jnp.float32),
        q_full=plgpu.Barrier(num_arrivals=2, num_barriers=consumers),
        k_full=plgpu.Barrier(num_barriers=config.stages),
        k_free=plgpu.Barrier(num_arrivals=consumers, num_barriers=config.stages),
    )
    items = lq // config.rows
    shape = b, h, items, consumers, config.parts, problem.chunks, entries
    out = plgpu.kernel(
        functools.partial(device.kernel, problem),
        out_type=jax.ShapeDtypeStruct(shape, jnp.float32),
        scratch_types=[scratch],
        grid=(b, h, items),
        grid_names=("b", "h", "item"),
        num_threads=consumers + 1,
        thread_name="wg",
        kernel_name="block_mass",
        compiler_params=_hopper.compiler_params(),
    )(device.Inputs(q, k, shift, pieces))
    out = out.reshape(b, h, lq // config.block_q, -1)
    return out[..., : count * config.pieces]
