"""Block-sparse attention for Hopper, backward: two passes of one kernel, without atomics.

Both passes hold rows of one side in shared memory, stream tiles of the other side past them, and
add up in registers, in the order of the lists; the same inputs thus give the same bits.

    pass    rows x, y      columns u, w    lists         sums
    dq      q, d_out       k, v            of the mask   dq += ds u
    dk, dv  k, v           q, d_out        transposed    dk += ds u,  dv += p w

    s = x u^T,  p = exp2(s - lse),  dp = y w^T,  ds = p (dp - delta)

Keys lie along the rows of these products in the second pass, so that p and ds, as they come out of
one wgmma, are the left operand of the next. Where a product runs, p or ds of the one before it is
worked out: dp under p, and p w under ds; the other consumer fills what is left. dp and ds u are
products of 64 columns each: of a wider tile, ds of the next columns is worked out under ds u.

    shared list:  two consumers hold the halves of 128 rows of one block and share each tile.
    own lists:    for blocks that are no multiple of 128: every consumer has its own 64 rows, list
                  and stream of tiles, and depends on no other.

A thread block takes one item (two with own lists) and ends. The hardware starts blocks in
order, each where one has ended, so items sorted longest first balance themselves; an item is
thousands of products long, and its start and end cost about one part in a hundred.

Barriers (one copy or warpgroup arrives, unless said):

    own    copies of a consumer's x and y (and statistics, in the first pass) landed
    full   copies of a tile of u and w (and statistics, in the second) landed
    free   every consumer of the stream has read the tile

Every completion of every barrier is waited for, also at the end: the interpreter insists on it.

Padding needs no mask here. Its q, k, v and d_out are zeros and its queries have lse +inf: then
p = 0 for padded queries, and padded keys, whose p may be anything finite, meet zeros in ds u;
what they gather in dk and dv is dropped.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .. import _hopper, _interpret, _measured, _padding, _real_lists
from .._real_lists import RealLists
from ..block_mask import BlockMask

_ROWS = _hopper.TILE  # rows of one consumer
_COLUMNS = 64  # of a product dp or ds u; Mosaic takes no fewer of a left operand in registers
_CLASSES = 16  # of list lengths; within one, items keep the order in which they share columns
_CONSUMERS = 2
_REGISTERS = 240, 24  # of a thread that computes and of one that copies


@dataclasses.dataclass(frozen=True)
class Config:
    """Shape of one pass.

    Attributes:
      tile: columns of one step; divides the block of the streamed side.
      stages: tiles of a stream that may be under way or in use.
      shared: consumers hold halves of one block's 128 rows, or each has 64 rows and its own list.
      sums: arrays it computes, 1 (dq) or 2 (dk and dv).
    """

    tile: int
    stages: int
    shared: bool
    sums: int

    @property
    def rows(self) -> int:
        """Rows that walk a list together; divides the block of their side."""
        return _ROWS * _CONSUMERS if self.shared else _ROWS

    @property
    def streams(self) -> int:
        """Streams of tiles of one thread block."""
        return 1 if self.shared else _CONSUMERS

    @property
    def slots(self) -> int:
        """Tiles in shared memory."""
        return self.streams * self.stages

    def smem_bytes(self, head_dim: int) -> int:
        """Shared memory of the kernel for 16-bit arrays, barriers included."""
        half, single = jnp.dtype("bfloat16"), jnp.dtype("float32")
        rows, tiles = (_CONSUMERS, _ROWS, head_dim), (self.slots, self.tile, head_dim)
        stats = (_CONSUMERS, 2, _ROWS) if self.sums == 1 else (self.slots, 2, self.tile)
        barriers = ((2 * (_CONSUMERS + 2 * self.slots),), single)
        return _hopper.smem_bytes([(rows, half), (tiles, half)] * 2 + [(stats, single), barriers])


def heuristics(head_dim: int, block_q: int, block_kv: int) -> tuple[Config, Config]:
    """The passes for dq and for dk, dv.

    Tiles are the largest whose products fit in 240 registers beside the sums. Circular buffers have
    as many stages as shared memory allows.

    Raises:
      NotImplementedError: a block size is not a multiple of 64.
    """
    if block_q % _ROWS or block_kv % _ROWS:
        raise NotImplementedError(
            f"mosaic_gpu takes blocks of multiples of {_ROWS} tokens, not {block_q} x {block_kv}"
        )

    def ring(shared, tile):
        return 256 // tile * 128 // head_dim // (1 if shared else _CONSUMERS)

    shared = block_q % 128 == 0
    tile = 128 if shared and block_kv % 128 == 0 else 64
    dq = Config(tile, ring(shared, tile), shared, sums=1)
    shared = block_kv % 128 == 0
    return dq, Config(64, ring(shared, 64), shared, sums=2)


def configure(
    head_dim: int, block_q: int, block_kv: int, dtype: Any = "bfloat16"
) -> tuple[Config, Config]:
    """The passes to use: the heuristics', with what a measured table says of each.

    Raises:
      NotImplementedError: as `heuristics`.
      ValueError: an entry of the table does not fit the blocks or shared memory.
    """
    geometry, blocks = (head_dim, block_q, block_kv), (block_q, block_kv)
    configs = []
    for name, config, sides in zip(
        ("dq", "dkv"), heuristics(*geometry), (blocks, blocks[::-1]), strict=True
    ):
        check = functools.partial(_check, sums=config.sums, head_dim=head_dim, blocks=sides)
        kernel = f"block_sparse_attention_{name}"
        configs.append(_measured.override(config, check, kernel, *geometry, dtype))
    return configs[0], configs[1]


def _check(config, sums, head_dim, blocks):
    """`blocks` are tokens of a block of the rows' side and of the streamed side."""
    if config.sums != sums:
        raise ValueError(f"{config} must have sums={sums}, as many as the pass computes")
    if blocks[0] % config.rows or blocks[1] % config.tile:
        raise ValueError(
            f"{config} has tiles of {config.rows} x {config.tile}, which do not divide blocks of "
            f"{blocks[0]} x {blocks[1]}"
        )
    _hopper.refuse_misfit(config, head_dim)


def shipped_configs() -> list[tuple[int, Config]]:
    """Head dim and pass of every block size class, for checks of the compiled kernel."""
    pairs = (64, 64), (64, 128), (128, 64), (128, 128), (192, 192), (256, 256), (384, 384)
    geometries = [(d, *pair) for d in _hopper.HEAD_DIMS for pair in pairs]
    found = [(geometry[0], config) for geometry in geometries for config in heuristics(*geometry)]
    return list(dict.fromkeys(found))


def backward(
    scale: float,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    out: jax.Array,
    lse: jax.Array,
    d_out: jax.Array,
    d_lse: jax.Array,
    mask: BlockMask,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gradients of `block_sparse_attention` by q, k and v.

    Costs outside the kernels: delta; the transposed lists, both without padding, and the order of
    work (none for a mask in numpy); and, with lengths or a length that is no multiple of the block,
    copies of the arrays with zeros for padding.

    Args:
      scale: factor on the logits.
      q: [B, Lq, H, D], bfloat16 or float16; what the forward kernel took, as k, v and mask are.
      k: [B, Lk, H, D].
      v: [B, Lk, H, D].
      out: [B, Lq, H, D], its first result.
      lse: float32 [B, H, Lq], its second.
      d_out: [B, Lq, H, D], cotangent of out.
      d_lse: float32 [B, H, Lq], cotangent of lse.
      mask: see `api.block_sparse_attention`. Lists in numpy are transposed on the host.

    Returns:
      dq, dk, dv, in the dtype of q.

    Raises:
      NotImplementedError: dtype, head dim or block sizes have no kernel.
      ValueError: an entry of the measured table does not fit.
    """
    _hopper.refuse_unless_supported(q)
    passes = configure(q.shape[-1], mask.block_q, mask.block_kv, q.dtype)
    lq, lk = q.shape[1], k.shape[1]
    real_q, real_kv = mask.real_queries(lq), mask.real_keys(lk)
    padded_q, padded_kv = mask.num_q_blocks * mask.block_q, mask.num_kv_blocks * mask.block_kv

    live = lse > -jnp.inf
    d_out = _padding.zero(d_out, real_q)
    delta = jnp.einsum("blhd,blhd->bhl", d_out, out, preferred_element_type=jnp.float32)
    stats = [
        _padding.lengthen(jnp.where(live, x, dead), padded_q, dead, axis=2)
        for x, dead in ((lse * np.float32(_hopper.LOG2E), np.inf), (delta - d_lse, 0.0))
    ]
    stats = jnp.stack(stats, axis=2)
    queries = [_padding.lengthen(x, padded_q) for x in (_padding.zero(q, real_q), d_out)]
    keys = [_padding.lengthen(_padding.zero(x, real_kv), padded_kv) for x in (k, v)]
    clamp = real_kv is not None or padded_kv != lk

    of_rows = plan_lists(mask, lq, lk, passes[0])
    of_columns = plan_lists(mask.transpose(), lk, lq, passes[1])
    (dq,) = launch(scale, passes[0], queries, keys, stats, of_rows, clamp=clamp)
    dk, dv = launch(scale, passes[1], keys, queries, stats, of_columns)
    dk, dv = (_padding.zero(x[:, :lk], real_kv) for x in (dk, dv))
    return dq[:, :lq], dk, dv


def plan_lists(mask: BlockMask, rows: int, columns: int, config: Config) -> RealLists:
    """What the tiles of a pass read, of so many rows and columns that exist."""
    return _real_lists.of(mask, rows, columns, tile=config.rows, step=config.tile)


@_hopper.in_32_bits
def launch(
    scale: float,
    config: Config,
    rows: list[jax.Array],
    columns: list[jax.Array],
    stats: jax.Array,
    lists: RealLists,
    *,
    clamp: bool = False,
    without: str = "",
) -> list[jax.Array]:
    """Runs one pass.

    Args:
      scale: factor on the logits.
      config: the pass; one with two sums has keys as rows.
      rows: x and y, [B, L, H, D] with a multiple of the block of tokens; padding is zeros.
      columns: u and w, the same.
      stats: float32 [B, H, 2, Lq], lse in base 2 (+inf for a query without keys) and delta.
      lists: what each tile of rows reads of the columns.
      clamp: keep p at most 1, for keys that are padding.
      without: name of a wait, arrival or fence to leave out, to test that it is needed.

    Returns:
      The sums, in the shape and dtype of x: of ds u and, with two, of p w.
    """
    from jax.experimental.pallas import mosaic_gpu as plgpu

    x = rows[0]
    b, _, h, d = x.shape
    problem = _Problem(config, scale, lists.part, clamp, _interpret.active(), without)
    order = _longest_first(lists, b, h, config)
    tile = _hopper.smem((_CONSUMERS, _ROWS, d), x.dtype)
    ring = _hopper.smem((config.slots, config.tile, d), x.dtype)
    of_rows = config.sums == 1
    stats_shape = (_CONSUMERS, 2, _ROWS) if of_rows else (config.slots, 2, config.tile)
    readers = _CONSUMERS if config.shared else 1
    scratch = _Scratch(
        tile,
        tile,
        ring,
        ring,
        plgpu.SMEM(stats_shape, jnp.float32),
        own=plgpu.Barrier(num_arrivals=2 + of_rows, num_barriers=_CONSUMERS),
        full=plgpu.Barrier(num_arrivals=3 - of_rows, num_barriers=config.slots),
        free=plgpu.Barrier(num_arrivals=readers, num_barriers=config.slots),
    )
    work = map(jnp.asarray, (lists.parts, lists.starts, lists.counts, order))
    inputs = _Inputs(*rows, *columns, stats, *work)
    return plgpu.kernel(
        functools.partial(_kernel, problem),
        out_type=[jax.ShapeDtypeStruct(x.shape, x.dtype)] * config.sums,
        scratch_types=[scratch],
        grid=(order.size // config.streams,),
        grid_names=("item",),
        num_threads=_CONSUMERS + 1,
        thread_name="wg",
        kernel_name="block_sparse_attention_" + ("dq" if of_rows else "dkv"),
        compiler_params=_hopper.compiler_params(),
    )(inputs)


def _longest_first(lists, batch, heads, config):
    """Tiles of rows, int32 indices into (batch, head, tile of a head); -1 fills the last block."""
    xp: Any = np if isinstance(lists.counts, np.ndarray) else jnp
    work = xp.broadcast_to(lists.counts, (batch, heads, lists.counts.shape[-1])).reshape(-1)
    classes = work * _CLASSES // xp.maximum(work.max(), 1)
    order = xp.argsort(-classes, stable=True).astype(np.int32)
    return xp.pad(order, (0, -order.size % config.streams), constant_values=-1)


class _Problem(NamedTuple):
    """What a pass knows when it is compiled."""

    config: Config
    scale: float
    part: int  # columns of an entry of a list
    clamp: bool
    interpret: bool
    without: str


class _Inputs(NamedTuple):
    """Arrays in global memory."""

    x: Any
    y: Any
    u: Any
    w: Any
    stats: Any
    parts: Any  # these three are `RealLists`
    starts: Any
    counts: Any
    order: Any


class _Scratch(NamedTuple):
    """Shared memory and barriers; see the module."""

    x: Any
    y: Any
    u: Any
    w: Any
    stats: Any
    own: Any
    full: Any
    free: Any


class _Item:
    """Rows that walk a list together: where they lie and what they meet."""

    def __init__(self, problem: _Problem, inputs: _Inputs, stream):
        config = problem.config
        index = inputs.order[lax.axis_index("item") * config.streams + stream]
        self.exists = index >= 0
        index = lax.max(index, 0)
        per_head, heads = inputs.x.shape[1] // config.rows, inputs.x.shape[2]
        tile, row = lax.rem(index, per_head), lax.div(index, per_head)
        self.first = tile * config.rows
        self.batch, self.head = lax.div(row, heads), lax.rem(row, heads)
        self.parts = self._of_head(inputs.parts)
        self.start = self._of_head(inputs.starts).at[tile][...]
        self.steps = self._of_head(inputs.counts).at[tile][...] * (problem.part // config.tile)
        self.problem = problem

    def column(self, step):
        """First column of a step."""
        tile = self.problem.config.tile
        per_part = self.problem.part // tile
        part = self.parts.at[self.start + lax.div(step, per_part)][...]
        return part * self.problem.part + lax.rem(step, per_part) * tile

    def _of_head(self, ref):
        batch, heads = ref.shape[:2]
        return ref.at[lax.min(self.batch, batch - 1), lax.min(self.head, heads - 1)]


def _kernel(problem: _Problem, inputs: _Inputs, *refs):
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import mosaic_gpu as plgpu

    *out_refs, scratch = refs
    wg = lax.axis_index("wg")

    @pl.when(wg < _CONSUMERS)
    def _():
        plgpu.set_max_registers(_REGISTERS[0], action="increase")
        _compute(problem, inputs, out_refs, scratch)

    @pl.when(wg == _CONSUMERS)
    def _():
        plgpu.set_max_registers(_REGISTERS[1], action="decrease")

        @plgpu.warp_map
        def _(warp):
            for stream in range(problem.config.streams):
                copy = functools.partial(_copy, problem, inputs, scratch, stream)
                pl.when(warp == stream)(copy)


def _copy(problem: _Problem, inputs: _Inputs, scratch: _Scratch, stream: int):
    """One warp: the listed tiles of u and w of an item, through a ring."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import mosaic_gpu as plgpu

    config, barriers = problem.config, _hopper.Barriers(scratch, problem.without)
    item = _Item(problem, inputs, stream)
    steps = jnp.where(item.exists, item.steps, 0)

    def slot(step):
        return stream * config.stages + lax.rem(step, config.stages)

    @pl.loop(0, steps)
    def _(step):
        at = slot(step)
        columns = pl.ds(item.column(step), config.tile)
        pl.when(step >= config.stages)(lambda: barriers.wait("free", at))
        for name in ("u", "w"):
            source = getattr(inputs, name).at[item.batch, columns, item.head]
            plgpu.copy_gmem_to_smem(source, getattr(scratch, name).at[at], scratch.full.at[at])
        if config.sums == 2:
            source = inputs.stats.at[item.batch, item.head, :, columns]
            plgpu.copy_gmem_to_smem(source, scratch.stats.at[at], scratch.full.at[at])

    @pl.loop(lax.max(steps - config.stages, 0), steps)
    def _(step):
        barriers.wait("free", slot(step))


def _compute(problem: _Problem, inputs: _Inputs, out_refs, scratch: _Scratch):
    """One warpgroup: the sums of its 64 rows."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import mosaic_gpu as plgpu

    config, barriers = problem.config, _hopper.Barriers(scratch, problem.without)
    wg = lax.axis_index("wg")
    stream, row = (0, wg * _ROWS) if config.shared else (wg, 0)
    of_rows = config.sums == 1  # statistics belong to rows, else to columns
    x, y = scratch.x.at[wg], scratch.y.at[wg]
    dtype = inputs.x.dtype
    factor = np.float32(problem.scale * _hopper.LOG2E)
    item = _Item(problem, inputs, stream)

    def slot(i):
        return stream * config.stages + lax.rem(i, config.stages)

    def wait_for_tile(i):
        pl.when(i < item.steps)(lambda: barriers.wait("full", slot(i)))

    def spread(which, shape, i, first=0):
        """A statistic, for columns of a tile from `first` on."""
        if of_rows:
            ref, axis = scratch.stats.at[wg, which], 0
        else:
            ref, axis = scratch.stats.at[slot(i), which, pl.ds(first, shape[1])], 1
        values = plgpu.load(ref, layout=plgpu.Layout.WGMMA.reduce(1 - axis))
        return lax.broadcast_in_dim(values, shape, [axis])

    def weights_now(s, i):
        power = s * factor - spread(0, s.shape, i)
        p = jnp.exp2(jnp.minimum(power, 0.0) if problem.clamp else power)
        # Compilers may move plain arithmetic past the wait for dp. They do not move it past this
        # barrier and the loop that waits for the next tile.
        p = lax.optimization_barrier(p)
        wait_for_tile(i + 1)
        return p

    def slopes_now(p, dp, i, first=0):
        ds = (p * (dp - spread(1, p.shape, i, first))).astype(dtype)
        if not of_rows and problem.without != "statistics fence":
            # Statistics were read as memory is; the next copy into their place is not ordered after
            # such reads by an arrival alone. (wgmma reads tiles as copies write them.)
            plgpu.commit_smem()
        return ds

    def add_interpreted(u, w, i, sums):
        dot = functools.partial(jnp.dot, preferred_element_type=jnp.float32)
        x_now, y_now, u, w = x[...], y[...], u[...], w[...]
        plgpu.commit_smem()  # plain reads in the place of wgmma's, which need none
        p, dp = weights_now(dot(x_now, u.T), i), dot(y_now, w.T)
        right = (slopes_now(p, dp, i), u), (p.astype(dtype), w)
        return tuple(acc + dot(*pair) for acc, pair in zip(sums, right, strict=False))

    def add(u, w, i, sums):
        pieces = range(0, config.tile, _COLUMNS)
        s_type = plgpu.ACC((_ROWS, config.tile), jnp.float32)
        dp_type = plgpu.ACC((_ROWS, _COLUMNS), jnp.float32)

        def products(refs):
            sum_u, *sum_w = refs

            def both(s_ref, *dp_refs):
                plgpu.wgmma(s_ref, x, u.T)
                for ref, first in zip(dp_refs, pieces, strict=True):
                    plgpu.wgmma(ref, y, w.at[pl.ds(first, _COLUMNS)].T)
                p = weights_now(plgpu.wgmma_accumulator_load(s_ref, wait_n=len(pieces)), i)
                for ref in sum_w:
                    plgpu.wgmma(ref, p.astype(dtype), w)
                # With own lists, registers do not last for p w to be under way any longer.
                under_way = len(pieces) - 1 + len(sum_w) if config.shared else 0
                for ref, first in zip(dp_refs, pieces, strict=True):
                    dp = plgpu.wgmma_accumulator_load(ref, wait_n=under_way)
                    ds = slopes_now(p[:, first : first + _COLUMNS], dp, i, first)
                    plgpu.wgmma(sum_u, ds, u.at[pl.ds(first, _COLUMNS)])

            pl.run_scoped(both, s_type, *[dp_type] * len(pieces))

        return pl.run_state(products)(tuple(plgpu.ACC.init(acc) for acc in sums))

    def step(i, sums):
        visit = add_interpreted if problem.interpret else add
        sums = visit(scratch.u.at[slot(i)], scratch.w.at[slot(i)], i, sums)
        barriers.arrive("free", slot(i))
        return tuple(sums)

    @pl.when(item.exists)
    def _():
        rows = pl.ds(item.first + row, _ROWS)
        here = item.batch, rows, item.head
        plgpu.copy_gmem_to_smem(inputs.x.at[here], x, scratch.own.at[wg])
        plgpu.copy_gmem_to_smem(inputs.y.at[here], y, scratch.own.at[wg])
        if of_rows:
            stats = inputs.stats.at[item.batch, item.head, :, rows]
            plgpu.copy_gmem_to_smem(stats, scratch.stats.at[wg], scratch.own.at[wg])
        barriers.wait("own", wg)
        zero = jnp.zeros((_ROWS, x.shape[-1]), jnp.float32)
        zero = plgpu.layout_cast(zero, plgpu.Layout.WGMMA)
        wait_for_tile(0)
        sums = lax.fori_loop(0, item.steps, step, (zero,) * config.sums)
        for acc, factor, place, out_ref in zip(
            sums, (problem.scale, 1.0), (x, y), out_refs, strict=False
        ):
            place[...] = (acc * np.float32(factor)).astype(dtype)
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(place, out_ref.at[here])
        plgpu.wait_smem_to_gmem(0)
