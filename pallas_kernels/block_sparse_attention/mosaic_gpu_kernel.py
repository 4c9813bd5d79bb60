"""The block-sparse attention kernel for Hopper: what its warps do. `mosaic_gpu` launches it.

A thread block stays on its multiprocessor and takes query tiles from a plan, longest list
first. One warpgroup holds 64 rows of queries and the running softmax in registers; a further
warpgroup has producer warps: they read the lists and copy K and V tiles into a circular buffer.

    shared list:  two consumers hold the halves of 128 rows of one query block and share each K and V
                  tile; they alternate, so that one computes its softmax under the products of the
                  other.
    own lists:    for query blocks of 64 rows: every consumer has its own tile, list and stream of
                  K and V, and depends on no other.

Inside a consumer the logits of the next tile are issued before the product with V of the present
one, so that tensor cores also work under the consumer's own softmax.

Barriers (one warpgroup or one copy arrives, unless said):

    q_full    copy of a query tile landed           q_free  its consumer needs it no more
    k_full    copy of a K tile landed               k_free  every consumer of its stream has read it
    v_full    the same of V                         v_free
    turn      the other consumer has issued its products

Every completion of every barrier is waited for, also at the end: the interpreter insists on it.
"""

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from .. import _hopper

ROWS = _hopper.TILE  # query rows of one consumer
_LANES = 8  # columns of a wgmma tile that different threads hold, or one thread holds twice


class Problem(NamedTuple):
    """What a kernel knows when it is compiled."""

    config: Any  # mosaic_gpu.Config
    scale: float  # on logits in base 2
    block_q: int
    part: int  # keys of an entry of a list
    interpret: bool
    without: str


class Inputs(NamedTuple):
    """Arrays in global memory."""

    q: Any
    k: Any
    v: Any
    parts: Any  # these four are `RealLists`
    starts: Any
    counts: Any
    sizes: Any
    tiles: Any
    turns: Any
    q_lengths: Any


class Scratch(NamedTuple):
    """Shared memory and barriers; see the module."""

    q: Any
    out: Any  # None: results leave from q
    k: Any
    v: Any
    lse: Any
    q_full: Any
    q_free: Any
    k_full: Any
    k_free: Any
    v_full: Any
    v_free: Any
    turn: Any


class _Item(NamedTuple):
    """One query tile: where it lies and what it reads."""

    batch: Any
    head: Any
    first: Any  # its first query row
    start: Any  # of its list
    steps: Any  # tiles of keys that make up the listed parts


class _Walk:
    """How all warps of a block find their work; they must agree to the last tile."""

    def __init__(self, problem: Problem, inputs: Inputs):
        self.problem, self.inputs = problem, inputs
        self.config = problem.config

    def worker(self, stream):
        """Row of the plan."""
        return lax.axis_index("sm") * self.config.streams + stream

    def turns(self, stream):
        return self.inputs.turns[self.worker(stream)]

    def item(self, stream, turn) -> _Item:
        heads, length = self.inputs.q.shape[2], self.inputs.q.shape[1]
        per_head = length // self.config.tile_q
        index = self.inputs.tiles[self.worker(stream), turn]
        tile, row = lax.rem(index, per_head), lax.div(index, per_head)
        batch, head = lax.div(row, heads), lax.rem(row, heads)
        first = tile * self.config.tile_q
        start = self._of_head(self.inputs.starts, batch, head).at[tile][...]
        count = self._of_head(self.inputs.counts, batch, head).at[tile][...]
        return _Item(batch, head, first, start, count * (self.problem.part // self.config.tile_kv))

    def keys(self, item: _Item, step):
        """The part that a step reads, and the first key of the step in that part."""
        per_part = self.problem.part // self.config.tile_kv
        parts = self._of_head(self.inputs.parts, item.batch, item.head)
        part = parts.at[item.start + lax.div(step, per_part)][...]
        return part, lax.rem(step, per_part) * self.config.tile_kv

    def real_keys(self, item: _Item, step):
        """How many keys of a step are real, from its first on; at most 0 or at least all count."""
        part, offset = self.keys(item, step)
        sizes = self._of_head(self.inputs.sizes, item.batch, item.head)
        return sizes.at[part][...] - offset

    def real_queries(self, item: _Item, row):
        """How many rows of a consumer are real whose first row lies `row` after the item's."""
        lengths = self._of_head(self.inputs.q_lengths, item.batch, item.head)
        block = lax.div(item.first, self.problem.block_q)
        return lengths.at[block][...] - (item.first + row - block * self.problem.block_q)

    def _of_head(self, ref, batch, head):
        return ref.at[lax.min(batch, ref.shape[0] - 1), lax.min(head, ref.shape[1] - 1)]


def kernel(problem: Problem, inputs: Inputs, out_ref, lse_ref, scratch: Scratch):
    """What every warpgroup of every thread block runs."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import mosaic_gpu as plgpu

    config = problem.config
    walk, barriers = _Walk(problem, inputs), _hopper.Barriers(scratch, problem.without)
    wg = lax.axis_index("wg")
    more, fewer = config.registers

    @pl.when(wg < config.consumers)
    def _():
        plgpu.set_max_registers(more, action="increase")
        _compute(walk, barriers, out_ref, lse_ref, scratch)

    @pl.when(wg == config.consumers)
    def _():
        plgpu.set_max_registers(fewer, action="decrease")

        @plgpu.warp_map
        def _(warp):
            for stream in range(config.streams):
                copy_kv = functools.partial(_copy_kv, walk, barriers, scratch, stream)
                copy_q = functools.partial(_copy_q, walk, barriers, scratch, stream)
                pl.when(warp == stream)(copy_kv)
                pl.when(warp == config.streams + stream)(copy_q)


def _copy_q(walk: _Walk, barriers: _hopper.Barriers, scratch: Scratch, stream: int):
    """One warp: queries of every item of a stream, each for its consumer."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import mosaic_gpu as plgpu

    config, q = walk.config, walk.inputs.q
    consumers = range(config.consumers) if config.shared else (stream,)
    turns = walk.turns(stream)

    @pl.loop(0, turns)
    def _(turn):
        item = walk.item(stream, turn)
        for row, wg in enumerate(consumers):
            pl.when(turn > 0)(functools.partial(barriers.wait, "q_free", wg))
            rows = pl.ds(item.first + row * ROWS, ROWS)
            plgpu.copy_gmem_to_smem(
                q.at[item.batch, rows, item.head], scratch.q.at[wg], scratch.q_full.at[wg]
            )

    @pl.when(turns > 0)
    def _():
        for wg in consumers:
            barriers.wait("q_free", wg)


def _copy_kv(walk: _Walk, barriers: _hopper.Barriers, scratch: Scratch, stream: int):
    """One warp: the listed tiles of K and V of every item of a stream, through a ring."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import mosaic_gpu as plgpu

    config, stages = walk.config, walk.config.stages

    def slot(done):
        return stream * stages + lax.rem(done, stages)

    def take(turn, done):
        item = walk.item(stream, turn)

        def step(i, done):
            part, offset = walk.keys(item, i)
            keys = pl.ds(part * walk.problem.part + offset, config.tile_kv)
            at, reused = slot(done), pl.when(done >= stages)
            for name in ("k", "v"):
                reused(functools.partial(barriers.wait, f"{name}_free", at))
                plgpu.copy_gmem_to_smem(
                    getattr(walk.inputs, name).at[item.batch, keys, item.head],
                    getattr(scratch, name).at[at],
                    getattr(scratch, f"{name}_full").at[at],
                )
            return done + 1

        return lax.fori_loop(0, item.steps, step, done)

    done = lax.fori_loop(0, walk.turns(stream), take, 0)

    @pl.loop(lax.max(done - stages, 0), done)
    def _(i):
        barriers.wait("k_free", slot(i))
        barriers.wait("v_free", slot(i))


def _compute(walk: _Walk, barriers: _hopper.Barriers, out_ref, lse_ref, scratch: Scratch):
    """One warpgroup: 64 query rows of every item of its stream."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import mosaic_gpu as plgpu

    config, problem = walk.config, walk.problem
    wg = lax.axis_index("wg")
    stream, row = (0, wg * ROWS) if config.shared else (wg, 0)
    d = scratch.q.shape[-1]
    per_row, per_logit = plgpu.Layout.WGMMA.reduce(1), plgpu.Layout.WGMMA
    queries = scratch.q.at[wg]
    results = queries if scratch.out is None else scratch.out.at[wg]
    logits_type = plgpu.ACC((ROWS, config.tile_kv), jnp.float32)
    # Where all logits are -0.0 or 0.0 they may be so of any scale; -inf x 0 would be NaN.
    scale = max(abs(problem.scale), float(np.finfo(np.float32).tiny))

    wait, arrive = barriers.wait, barriers.arrive

    def wait_for_stores():
        """Until results have left shared memory, which may then be written again."""
        if problem.without != "store wait":
            plgpu.wait_smem_to_gmem(0, wait_read_only=True)

    def spread(x, shape):
        return lax.broadcast_in_dim(x, shape, [0])

    def dot(a, b):
        return jnp.dot(a, b, preferred_element_type=jnp.float32)

    def first_logits(at):
        if problem.interpret:
            s = dot(queries[...], scratch.k[at].T)
            plgpu.commit_smem()
            return s

        def product(s_ref):
            plgpu.wgmma(s_ref, queries, scratch.k.at[at].T)
            return s_ref[...]

        return pl.run_scoped(product, logits_type)

    def next_logits_and_sums(now, before, acc, shrink, p, after_issue, after_logits):
        """The two products of a step: older sums shrink under the first, `after_logits` runs under the second."""
        acc = acc * spread(shrink, acc.shape)
        if problem.interpret:
            s = dot(queries[...], scratch.k[now].T)
            wait("v_full", before)
            acc = acc + dot(p, scratch.v[before])
            plgpu.commit_smem()
            after_issue()
            return acc, *after_logits(s)

        def products(s_ref):
            plgpu.wgmma(s_ref, queries, scratch.k.at[now].T)
            wait("v_full", before)

            def sums(refs):
                acc_ref, *result_refs = refs
                plgpu.wgmma(acc_ref, p, scratch.v.at[before])
                after_issue()
                values = after_logits(plgpu.wgmma_accumulator_load(s_ref, wait_n=1))
                for ref, value in zip(result_refs, values, strict=True):
                    ref[...] = value

            return pl.run_state(sums)((plgpu.ACC.init(acc), *blank_softmax()))

        return pl.run_scoped(products, logits_type)

    def last_sums(before, acc, p):
        if problem.interpret:
            acc = acc + dot(p, scratch.v[before])
            plgpu.commit_smem()
            return acc
        product = pl.run_state(lambda acc_ref: plgpu.wgmma(acc_ref, p, scratch.v.at[before]))
        return product(plgpu.ACC.init(acc))

    def blank_softmax():
        low = plgpu.layout_cast(jnp.full((ROWS,), -jnp.inf, jnp.float32), per_row)
        zero = plgpu.layout_cast(jnp.zeros((ROWS,), jnp.float32), per_row)
        p = jnp.zeros((ROWS, config.tile_kv), jnp.float32)
        total = plgpu.layout_cast(jnp.zeros((ROWS, _LANES), jnp.float32), per_logit)
        return low, total if by_thread else zero, zero, plgpu.layout_cast(p, per_logit)

    by_thread = config.consumers < 3  # else registers do not last for it

    def sums_of(p):
        """Of rows, over the columns of each thread; its neighbours' are added once, in the end."""
        if not by_thread:
            return p.sum(axis=1)
        columns = (p[:, at : at + _LANES] for at in range(0, config.tile_kv, _LANES))
        return functools.reduce(jnp.add, columns)

    def softmax(real, s, top, total):
        """New top, total, the factor on older sums, and weights relative to the new top.

        `real` is how many keys are, None if all are.
        """
        if problem.scale < 0:
            s = -s
        if real is not None:

            def masked():
                keys = plgpu.broadcasted_iota(jnp.int32, s.shape, 1, layout=per_logit)
                return jnp.where(keys < real, s, -jnp.inf)

            s = lax.cond(real < config.tile_kv, masked, lambda: s)
        top_now = jnp.maximum(top, s.max(axis=1) * scale)
        shift = jnp.where(top_now == -jnp.inf, 0.0, top_now)  # padding, or logits that overflowed
        shrink = jnp.exp2(top - shift)
        p = jnp.exp2(s * scale - spread(shift, s.shape))
        total = total * (spread(shrink, total.shape) if by_thread else shrink) + sums_of(p)
        return top_now, total, shrink, p

    def walk_list(item, done):
        """acc, top, total of an item with at least one step."""

        def slot(i):
            return stream * config.stages + lax.rem(done + i, config.stages)

        def wait_for_keys(i):
            pl.when(i < item.steps)(lambda: wait("k_full", slot(i)))

        def real_keys(i):
            return None if walk.inputs.sizes is None else walk.real_keys(item, i)

        real = real_keys(0)
        wait("k_full", slot(0))
        s = first_logits(slot(0))
        arrive("k_free", slot(0))
        *first, p = softmax(real, s, *blank_softmax()[:2])
        wait_for_keys(1)

        def step(i, carry):
            acc, top, total, shrink, p = carry
            real = real_keys(i)  # read from global memory while others work
            if config.ping_pong:
                wait("turn", wg)

            def after_issue():
                if config.ping_pong:
                    arrive("turn", 1 - wg)

            def after_logits(s):
                arrive("k_free", slot(i))
                # Compilers may move plain arithmetic past the end of the other product. They do
                # not move it past this barrier and the loop that waits for keys.
                now = lax.optimization_barrier(softmax(real, s, top, total))
                wait_for_keys(i + 1)
                return now

            *now, weights = next_logits_and_sums(
                slot(i), slot(i - 1), acc, shrink, p, after_issue, after_logits
            )
            arrive("v_free", slot(i - 1))
            # Only now: the product has to have read the old weights before registers change.
            return *now, weights.astype(p.dtype)

        carry = no_sums(), *first, p.astype(queries.dtype)
        acc, top, total, shrink, p = lax.fori_loop(1, item.steps, step, carry)
        last = slot(item.steps - 1)
        wait("v_full", last)
        acc = last_sums(last, acc * spread(shrink, acc.shape), p)
        arrive("v_free", last)
        return acc, top, total

    def no_sums():
        return plgpu.layout_cast(jnp.zeros((ROWS, d), jnp.float32), per_logit)

    def store(item, acc, top, total):
        total = total.sum(axis=1) if by_thread else total
        live = total != 0.0  # also where it is NaN, which is to be seen
        total = jnp.where(live, total, 1.0)
        if walk.inputs.q_lengths is not None:
            rows = plgpu.broadcasted_iota(jnp.int32, (ROWS,), 0, layout=per_row)
            live = live & (rows < walk.real_queries(item, row))
        wait_for_stores()
        out = jnp.where(spread(live, acc.shape), acc * spread(1.0 / total, acc.shape), 0.0)
        results[...] = out.astype(results.dtype)
        lse = (top + jnp.log2(total)) * _hopper.LN2
        scratch.lse[wg] = jnp.where(live, lse, -jnp.inf)
        plgpu.commit_smem()
        rows = pl.ds(item.first + row, ROWS)
        plgpu.copy_smem_to_gmem(results, out_ref.at[item.batch, rows, item.head])
        plgpu.copy_smem_to_gmem(scratch.lse.at[wg], lse_ref.at[item.batch, item.head, rows])

    def take(turn, done):
        item = walk.item(stream, turn)
        wait("q_full", wg)
        nothing = no_sums(), *blank_softmax()[:2]
        sums = lax.cond(item.steps > 0, lambda: walk_list(item, done), lambda: nothing)
        if config.own_out:
            arrive("q_free", wg)
        store(item, *sums)
        if not config.own_out:
            wait_for_stores()
            arrive("q_free", wg)
        return done + item.steps

    if config.ping_pong:
        pl.when(wg == 1)(lambda: arrive("turn", 0))
    lax.fori_loop(0, walk.turns(stream), take, 0)
    plgpu.wait_smem_to_gmem(0)
    if config.ping_pong:
        pl.when(wg == 0)(lambda: wait("turn", 0))
