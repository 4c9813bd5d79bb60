"""The block mass kernel for Hopper: what its warps do. `mosaic_gpu` launches it.

A thread block keeps 256 query rows in shared memory and streams all keys past them. Four
warpgroups compute, 64 rows each: a product of its queries and a tile of keys, then exp2(scale' s -
lse') of it, summed. At head dim 128 the exponentials keep their unit as busy as the products keep the
tensor cores, so both must run all the time. A warpgroup does one after the other; four of them, one
warp of each in every quarter of the multiprocessor, drift apart because both units are short, and
while one waits for its product others take exponentials. (Two warpgroups of twice the rows have to
overlap inside themselves, which ptxas undoes wherever it may.)

Each thread folds its columns, four threads fold theirs, and the sums of the 64 rows of a block pair
wait in shared memory until 64 pairs are finished at once. Never a sum over the warps of a warpgroup:
Mosaic gives all warpgroups the same scratch memory for it. Only results leave the chip.

Barriers (one copy arrives, unless said):

    q_full  copies of a consumer's queries and their lse landed
    k_full  copy of a tile of keys landed
    k_free  every consumer has read it

Every completion of every barrier is waited for, also at the end: JAX's interpreter insists on it.
All items take equal time, so the grid is plain: nothing to balance, no list of work.
"""

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from .. import _hopper

ROWS = _hopper.TILE  # query rows of one consumer
CONSUMERS = 4  # warpgroups that compute
ENTRIES = 64  # block pairs whose sums are finished together
_LANES = 8  # columns of a wgmma tile that different threads hold, or one thread holds twice
_REGISTERS = 120, 32  # of a thread that computes and of one that copies: 65,536 in all


class Problem(NamedTuple):
    """What the kernel knows when it is compiled."""

    config: Any  # mosaic_gpu.Config
    factor: Any  # on logits, to base 2
    count: int  # tiles of keys
    interpret: bool
    without: str

    @property
    def tiles_held(self) -> int:
        """Tiles of keys whose sums are finished together."""
        return ENTRIES // self.config.pieces

    @property
    def chunks(self) -> int:
        """How often sums are finished."""
        return -(-self.count // self.tiles_held)


class Inputs(NamedTuple):
    """Arrays in global memory."""

    q: Any
    k: Any
    shift: Any
    pieces: Any  # None: all keys are real


class Scratch(NamedTuple):
    """Shared memory and barriers; see the module."""

    q: Any
    k: Any
    shift: Any
    sums: Any
    out: Any
    q_full: Any
    k_full: Any
    k_free: Any


def kernel(problem: Problem, inputs: Inputs, out_ref, scratch: Scratch):
    """What every warpgroup of every thread block runs."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import mosaic_gpu as plgpu

    wg = lax.axis_index("wg")

    @pl.when(wg < CONSUMERS)
    def _():
        plgpu.set_max_registers(_REGISTERS[0], action="increase")
        _compute(problem, inputs, out_ref, scratch)

    @pl.when(wg == CONSUMERS)
    def _():
        plgpu.set_max_registers(_REGISTERS[1], action="decrease")

        @plgpu.warp_map
        def _(warp):
            pl.when(warp == 0)(functools.partial(_copy_keys, problem, inputs, scratch))


def _slot(problem, tile):
    return lax.rem(tile, jnp.int32(problem.config.stages))


def _copy_keys(problem: Problem, inputs: Inputs, scratch: Scratch):
    """One warp: all tiles of keys, through a ring."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import mosaic_gpu as plgpu

    config, batch, head = problem.config, lax.axis_index("b"), lax.axis_index("h")
    barriers = _hopper.Barriers(scratch, problem.without)

    @pl.loop(0, problem.count)
    def _(tile):
        slot = _slot(problem, tile)
        pl.when(tile >= config.stages)(lambda: barriers.wait("k_free", slot))
        keys = pl.ds(tile * config.tile_kv, config.tile_kv)
        plgpu.copy_gmem_to_smem(
            inputs.k.at[batch, keys, head], scratch.k.at[slot], scratch.k_full.at[slot]
        )

    @pl.loop(max(problem.count - config.stages, 0), problem.count)
    def _(tile):
        barriers.wait("k_free", _slot(problem, tile))


def _compute(problem: Problem, inputs: Inputs, out_ref, scratch: Scratch):
    """One warpgroup: the sums of its 64 query rows."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import mosaic_gpu as plgpu

    config = problem.config
    batch, head, item, wg = (lax.axis_index(n) for n in ("b", "h", "item", "wg"))
    per_pair, per_row = plgpu.Layout.WGMMA, plgpu.Layout.WGMMA.reduce(1)
    shape = ROWS, config.tile_kv
    queries, barriers = scratch.q.at[wg], _hopper.Barriers(scratch, problem.without)

    rows = pl.ds((item * CONSUMERS + wg) * ROWS, ROWS)
    plgpu.copy_gmem_to_smem(inputs.q.at[batch, rows, head], queries, scratch.q_full.at[wg])
    plgpu.copy_gmem_to_smem(
        inputs.shift.at[batch, head, rows], scratch.shift.at[wg], scratch.q_full.at[wg]
    )
    barriers.wait("q_full", wg)
    shift = plgpu.load(scratch.shift.at[wg], layout=per_row)

    def product(k_tile):
        """q k^T, finished."""
        if problem.interpret:  # plain reads, which the race detector sees
            s = jnp.dot(queries[...], k_tile[...].T, preferred_element_type=jnp.float32)
            plgpu.commit_smem()
            return s

        def multiply(acc):
            plgpu.wgmma(acc, queries, k_tile.T)
            return acc[...]

        return pl.run_scoped(multiply, plgpu.ACC(shape, jnp.float32))

    def real_keys(tile):
        """How many keys of each piece of a tile are real; None if all of all."""
        if inputs.pieces is None:
            return None
        sizes, n = inputs.pieces.shape, config.pieces
        at = [0 if size == 1 else i for i, size in zip((batch, head), sizes, strict=False)]
        return [inputs.pieces[*at, tile * n + i] for i in range(n)]

    def without_padding(p, real):
        """Zeros where keys are padding."""

        def mask():
            column = plgpu.broadcasted_iota(jnp.int32, shape, 1, layout=per_pair)
            ends = zip(range(0, config.tile_kv, config.block_kv), real, strict=True)
            inside = [(column >= at) & (column < at + n) for at, n in ends]
            return jnp.where(functools.reduce(jnp.logical_or, inside), p, 0.0)

        least = functools.reduce(jnp.minimum, real)
        return lax.cond(least == config.block_kv, lambda: p, mask)

    def exponentials(tile):
        """Those of one tile of keys."""
        slot, real = _slot(problem, tile), real_keys(tile)
        barriers.wait("k_full", slot)
        s = product(scratch.k.at[slot])
        barriers.arrive("k_free", slot)
        p = jnp.exp2(s * problem.factor - lax.broadcast_in_dim(shift, shape, [0]))
        return p if real is None else without_padding(p, real)

    def put_aside(p, entry):
        """Sums over the columns of each piece, from an entry of the chunk on."""
        for i in range(config.pieces):
            first = i * config.block_kv
            columns = range(first, first + config.block_kv, _LANES)
            folded = functools.reduce(jnp.add, (p[:, at : at + _LANES] for at in columns))
            scratch.sums[wg, entry + i] = folded.sum(axis=1)

    def finish(chunk):
        """Sums over rows of what was put aside, to global memory."""
        for i in range(config.parts):
            plgpu.wait_smem_to_gmem(0, wait_read_only=True)
            rows = scratch.sums.at[wg, :, i * config.block_q : (i + 1) * config.block_q]
            # Rows lie in the same banks, so that reads take turns; a hundredth of a chunk's time.
            table = plgpu.load(rows, layout=per_pair, optimized=False)
            scratch.out[wg] = table.sum(axis=1)
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(scratch.out.at[wg], out_ref.at[batch, head, item, wg, i, chunk])

    @pl.loop(0, problem.chunks)
    def _(chunk):
        first = chunk * problem.tiles_held

        @pl.loop(0, lax.min(problem.count - first, problem.tiles_held))
        def _(i):
            put_aside(exponentials(first + i), i * config.pieces)

        finish(chunk)

    plgpu.wait_smem_to_gmem(0)
