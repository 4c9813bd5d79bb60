"""Block-sparse attention for Hopper through Pallas Mosaic GPU: its shapes, its plan of work, its launch.

`mosaic_gpu_kernel` says how the kernel works.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import _checks, _hopper, _interpret, _measured, _padding, _real_lists, _vmap
from .._real_lists import RealLists
from ..block_mask import BlockMask
from . import mosaic_gpu_kernel as device
from . import mosaic_gpu_vjp


@dataclasses.dataclass(frozen=True)
class Config:
    """Shape of the kernel.

    Attributes:
      tile_kv: keys of one step; divides block_kv.
      stages: K tiles and V tiles of a stream that may be under way or in use.
      consumers: warpgroups that compute.
      shared: consumers hold parts of one query block and share one list, or each has its own.
      own_out: results leave from memory of their own, and the next queries come in meanwhile.
    """

    tile_kv: int
    stages: int
    consumers: int = 2
    shared: bool = True
    own_out: bool = True

    @property
    def tile_q(self) -> int:
        """Query rows that walk a list together; divides block_q."""
        return device.ROWS * self.consumers if self.shared else device.ROWS

    @property
    def streams(self) -> int:
        """Streams of K and V tiles of one thread block."""
        return 1 if self.shared else self.consumers

    @property
    def ping_pong(self) -> bool:
        """Whether two consumers run in ping-pong; only consumers that share a list do."""
        return self.shared and self.consumers == 2

    @property
    def registers(self) -> tuple[int, int]:
        """Registers of a thread that computes and of one that copies: 65,536 in all."""
        return {1: (240, 24), 2: (240, 24), 3: (160, 32)}[self.consumers]

    def smem_bytes(self, head_dim: int) -> int:
        """Shared memory of a kernel for 16-bit arrays, barriers included."""
        half, single = jnp.dtype("bfloat16"), jnp.dtype("float32")
        queries = (self.consumers, device.ROWS, head_dim)
        ring = (self.streams * self.stages, self.tile_kv, head_dim)
        buffers = [(queries, half)] * (1 + self.own_out) + [(ring, half)] * 2
        barriers = 2 * self.consumers + 4 * self.streams * self.stages + 2 * self.ping_pong
        return _hopper.smem_bytes([*buffers, (queries[:2], single)]) + 8 * barriers


def heuristics(head_dim: int, block_q: int, block_kv: int) -> Config:
    """The configuration for a head dim and a mask's blocks; multiples of 64 all have one.

    Tiles are the largest whose logits, weights and sums fit in registers (160 of 240 for 64 x 128
    with head dim 128). Circular buffers have as many stages as shared memory allows.

    Raises:
      NotImplementedError: a block size is not a multiple of 64.
    """
    if block_q % device.ROWS or block_kv % device.ROWS:
        raise NotImplementedError(
            f"mosaic_gpu takes blocks of multiples of {device.ROWS} tokens, not {block_q} x {block_kv}"
        )
    wide = block_kv % 128 == 0
    # At head dim 64 a step's exponentials take as long as its products for two consumers, so that two
    # cannot hide all of one under the other. At 128 tiles of 128 keys would spill registers for three.
    if block_q % 192 == 0 and (head_dim == 64 or block_q % 128):
        tile_kv = 128 if wide and head_dim == 64 else 64
        return Config(tile_kv, stages=384 // tile_kv * 64 // head_dim, consumers=3)
    if block_q % 128 == 0:
        tile_kv = 128 if wide else 64
        return Config(tile_kv, stages=256 // tile_kv * 128 // head_dim)
    if head_dim == 64 and wide:
        return Config(128, stages=3, shared=False)
    return Config(64, stages=3 * 128 // head_dim, shared=False, own_out=head_dim == 64)


def configure(head_dim: int, block_q: int, block_kv: int, dtype: Any = "bfloat16") -> Config:
    """The configuration to use: the heuristics', with what a measured table says of it.

    Raises:
      NotImplementedError: as `heuristics`.
      ValueError: an entry of the table does not fit the blocks or shared memory.
    """
    geometry = head_dim, block_q, block_kv
    check = functools.partial(_check, head_dim=head_dim, block_q=block_q, block_kv=block_kv)
    return _measured.override(
        heuristics(*geometry), check, "block_sparse_attention", *geometry, dtype
    )


def _check(config, head_dim, block_q, block_kv):
    if config.consumers not in (1, 2, 3):
        raise ValueError(f"{config} must have 1, 2 or 3 consumers")
    if block_q % config.tile_q or block_kv % config.tile_kv:
        raise ValueError(
            f"{config} has tiles of {config.tile_q} x {config.tile_kv}, which do not divide the "
            f"mask's blocks of {block_q} x {block_kv}"
        )
    _hopper.refuse_misfit(config, head_dim)


def block_sparse_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: BlockMask, *, scale: float, skip_below=None
) -> tuple[jax.Array, jax.Array]:
    """See `api.block_sparse_attention`. Refuses what it has no tiles for, and other devices."""
    _checks.refuse_skipping("mosaic_gpu", skip_below)
    _hopper.refuse_unless_available()
    return attention(q, k, v, mask, scale=scale)


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: BlockMask,
    *,
    scale: float,
    config: Config | None = None,
    num_sms: int = _hopper.NUM_SMS,
) -> tuple[jax.Array, jax.Array]:
    """The same for any device, so that it can be lowered and compiled anywhere.

    Work outside the kernel: lists without padding and the order of work (a sort of the counts), unless
    the mask is known on the host. With kv_lengths v is copied with zeros as padding, because 0 x NaN
    would reach the sums. Arrays whose length is no multiple of the block are copied with padding.

    Args:
      q: [B, Lq, H, D], bfloat16 or float16.
      k, v: [B, Lk, H, D].
      mask: see `api.block_sparse_attention`.
      scale: factor on the logits.
      config: by default `configure`'s.
      num_sms: thread blocks to start, one for each multiprocessor.

    Raises:
      NotImplementedError: dtype, head dim or block sizes have no kernel.
      ValueError: the configuration does not fit the blocks or shared memory.
    """
    _hopper.refuse_unless_supported(q)
    geometry = q.shape[-1], mask.block_q, mask.block_kv
    config = config or configure(*geometry, q.dtype)
    _check(config, *geometry)
    constants, others = _vmap.split(mask)
    return _attention(scale, (config, num_sms), constants, q, k, v, others)


def plan_lists(mask: BlockMask, q: jax.Array, k: jax.Array, config: Config) -> RealLists:
    """What the query tiles of the kernel read."""
    tiles = {"tile": config.tile_q, "step": config.tile_kv}
    return _real_lists.of(mask, q.shape[1], k.shape[1], **tiles)


def plan_work(
    lists: RealLists, batch: int, heads: int, config: Config, num_sms: int
) -> tuple[Any, Any]:
    """Which worker takes which query tiles, and when: longest lists first.

    A worker is a thread block or, with lists of their own, one consumer. Tiles are sorted by
    the length of their lists, equal ones in the order of (batch, head, position), whose neighbours
    share keys in the cache. Everyone starts with one of the longest; the others go to whoever is
    free first if they all took the mean time. Text rows, which read everything, thus cost their
    workers later turns.

    Returns:
      tiles, int32 [workers, turns]: indices into (batch, head, tile of a head), flat.
      turns, int32 [workers]: how many of them there are. Numpy for lists on the host.
    """
    on_host = isinstance(lists.counts, np.ndarray)
    xp: Any = np if on_host else jnp
    work = xp.broadcast_to(lists.counts, (batch, heads, lists.counts.shape[-1])).reshape(-1)
    workers = num_sms * config.streams
    turns = 2 * -(-work.size // workers)
    order = xp.argsort(-work, stable=True).astype(np.int32)
    first = work[order[:workers]]
    if idle := max(workers - work.size, 0):  # no array of size 0: XLA crashes on one in a shard_map
        first = xp.concatenate([first, np.zeros(idle, np.int32)])
    mean = (work.sum() - first.sum()).astype(np.float32) / np.float32(max(work.size - workers, 1))
    later = first[None].astype(np.float32) + mean * np.arange(turns - 1, dtype=np.float32)[:, None]
    start = xp.concatenate([np.full((1, workers), -1, np.float32), later])
    taken = xp.argsort(start.reshape(-1), stable=True)[: work.size]
    if on_host:
        tiles = np.full(turns * workers, -1, np.int32)
        tiles[taken] = order
    else:
        tiles = jnp.full(turns * workers, -1, jnp.int32).at[taken].set(order)
    tiles = tiles.reshape(turns, workers).T
    return xp.maximum(tiles, 0), (tiles >= 0).sum(-1, dtype=np.int32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _attention(scale, how, constants, q, k, v, others):
    return _forward(scale, how, constants, q, k, v, others)[0]


def _forward(scale, how, constants, q, k, v, others):
    config, num_sms = how

    def planned(q, k, v, mask):
        lists = plan_lists(mask, q, k, config)
        plan = plan_work(lists, q.shape[0], q.shape[2], config, num_sms)
        return launch(scale, config, q, k, v, *jax.tree.map(jnp.asarray, (mask, lists, plan)))

    out, lse = _vmap.call(planned, constants, (q, k, v), others)
    return (out, lse), (q, k, v, others, out, lse)


def _backward(scale, _, constants, residuals, cotangents):
    q, k, v, others, *results = residuals
    data = q, k, v, *results, *cotangents
    backward = functools.partial(mosaic_gpu_vjp.backward, scale)
    return *_vmap.call(backward, constants, data, others), None


_attention.defvjp(_forward, _backward)


@_hopper.in_32_bits
def launch(
    scale: float,
    config: Config,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: BlockMask,
    lists: RealLists,
    plan: tuple[jax.Array, jax.Array],
    *,
    without: str = "",
) -> tuple[jax.Array, jax.Array]:
    """Runs the kernel. `without` names a wait or arrival to leave out, to test that it is needed."""
    from jax.experimental.pallas import mosaic_gpu as plgpu

    (b, lq, h, d), lk = q.shape, k.shape[1]
    padded_q = mask.num_q_blocks * mask.block_q
    padded_kv = mask.num_kv_blocks * mask.block_kv
    v = _padding.zero(v, mask.real_keys(lk))
    q, k, v = (_padding.lengthen(x, n) for x, n in ((q, padded_q), (k, padded_kv), (v, padded_kv)))

    factor = scale * _hopper.LOG2E
    how = _interpret.active(), without
    problem = device.Problem(config, factor, mask.block_q, lists.part, *how)
    c, r = config.consumers, config.streams * config.stages
    tiles = (c, device.ROWS, d), (r, config.tile_kv, d)
    per_slot = c if config.shared else 1
    scratch = device.Scratch(
        _hopper.smem(tiles[0], q.dtype),
        _hopper.smem(tiles[0], q.dtype) if config.own_out else None,
        _hopper.smem(tiles[1], q.dtype),
        _hopper.smem(tiles[1], q.dtype),
        plgpu.SMEM((c, device.ROWS), jnp.float32),
        q_full=plgpu.Barrier(num_barriers=c),
        q_free=plgpu.Barrier(num_barriers=c),
        k_full=plgpu.Barrier(num_barriers=r),
        k_free=plgpu.Barrier(num_barriers=r, num_arrivals=per_slot),
        v_full=plgpu.Barrier(num_barriers=r),
        v_free=plgpu.Barrier(num_barriers=r, num_arrivals=per_slot),
        turn=plgpu.Barrier(num_barriers=2) if config.ping_pong else None,
    )
    read = lists.parts, lists.starts, lists.counts, lists.sizes
    inputs = device.Inputs(q, k, v, *read, *plan, mask.q_lengths)
    out, lse = plgpu.kernel(
        functools.partial(device.kernel, problem),
        out_type=[
            jax.ShapeDtypeStruct(q.shape, q.dtype),
            jax.ShapeDtypeStruct((b, h, padded_q), jnp.float32),
        ],
        scratch_types=[scratch],
        grid=(plan[1].shape[0] // config.streams,),
        grid_names=("sm",),
        num_threads=c + 1,
        thread_name="wg",
        kernel_name="block_sparse_attention",
        compiler_params=_hopper.compiler_params(),
    )(inputs)
    return out[:, :lq], lse[..., :lq]
