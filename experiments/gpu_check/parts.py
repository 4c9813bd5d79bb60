"""The timed parts: which candidates race on which problems, and the targets they are held to."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.gpu_check import torch_baselines
from experiments.gpu_check.session import Session
from experiments.gpu_check.shapes import CASES, DENSE, PUBLISHED_MS, SPARSE, Case
from experiments.timing import Timer, timer
from pallas_kernels import BlockMask, block_mass, block_sparse_attention, dense_attention
from sparsevdit_jax import KernelOptions, Phase, StepContext, VideoGrid, attend, sparse_attention
from sparsevdit_jax.patterns import AdaSpa
from sparsevdit_jax.token_order import TokenOrder
from sparsevdit_jax.token_permutation import TokenPermutation

BESIDE_DENSE = ("S1", "S3", "S6", "V4")  # the other problems' dense times follow from these
LISTS_BY_HEAD = ("S1",)
FORWARD_TARGETS = {"S1": 640.0, "S2": 660.0, "V4": 420.0}  # TFLOPS of selected blocks, H200
BACKWARD_TARGETS = {"S1": 450.0}
DENSE_SPEEDUP, REORDER_SHARE = 10.5, 0.08  # of S1, over the best dense; of its attention time


def ceilings(session: Session) -> None:
    """What this card can do: a copy, and a square matrix product on random data."""
    size = 256 if session.config.dry_run else 8192
    case = Case(name="ceiling", heads=1, head_dim=size, length=size)
    x, y = case.inputs(jax.random.key(1), 2, session.config.timed_dtype)
    x, y = x[0, :, 0], y[0, :, 0]
    large = jnp.tile(x, (16, 1))
    timers = {
        "matrix product": timer(jax.jit(jnp.dot), x, y),
        "copy": timer(jax.jit(lambda x: x + jnp.ones((), x.dtype)), large),
    }
    ms = session.race(case, 1.0, timers, {"matrix product": 2 * size**3})
    if "copy" in ms:
        print(f"  copy: {2 * large.nbytes / ms['copy'] / 1e6:.0f} GB/s, read and written")


def forward(session: Session) -> None:
    """Block-sparse attention on every problem, dense attention beside some, and their targets."""
    for case in session.cases(SPARSE, SPARSE):
        mask = case.mask()
        density = float(mask.density())
        q, k, v = case.inputs(jax.random.key(0), 3, session.config.timed_dtype)
        timers = _sparse(session, case, mask, q, k, v)
        ours = list(timers)
        if case.name in LISTS_BY_HEAD:  # what lists cost: the same ones, but none shared by heads
            apart = _lists_by_head(mask, case.heads)
            timers |= {
                f"{n}, lists by head": t for n, t in _sparse(session, case, apart, q, k, v).items()
            }
        flops = dict.fromkeys(timers, case.flops(density))
        dense: dict[str, Timer] = {}
        if case.name in BESIDE_DENSE:
            dense = _dense(session, q, k, v) | _torch(session, case, None, backward=False)
            timers |= dense
            flops |= dict.fromkeys(dense, case.flops(1.0))
        flex = _torch(session, case, mask, backward=False)
        timers |= flex
        flops |= dict.fromkeys(flex, case.flops(density))
        if case.grid:
            timers["reorder"] = _reorder(case)
        ms = session.race(case, density, timers, flops, dense)
        if case.name in PUBLISHED_MS:
            print(f"  {case.name:12s} others, ms: {PUBLISHED_MS[case.name]}")
        _forward_verdicts(
            session, case, flops, ms, ours, [ms[name] for name in dense if name in ms]
        )


def _forward_verdicts(session, case: Case, flops, ms, ours, dense_ms) -> None:
    ours = [name for name in ours if name in ms]
    if not ours:
        return
    best = min(ours, key=ms.__getitem__)
    rate = flops[best] / ms[best] / 1e9
    if case.name in FORWARD_TARGETS:
        target = FORWARD_TARGETS[case.name]
        session.verdict(f"{case.name}, {best}, selected FLOPs", rate, target, "TFLOPS")
    if case.name == "S1" and dense_ms and "reorder" in ms:
        speedup = min(dense_ms) / (ms[best] + ms["reorder"])
        session.verdict("S1 with its reorder, over the best dense", speedup, DENSE_SPEEDUP, "x")
        room = REORDER_SHARE * ms[best] / ms["reorder"]
        session.verdict("S1, time allowed for the reorder over time taken", room, 1.0, "x")


def backward(session: Session) -> None:
    """dq, dk and dv alone, from the residuals of a forward pass."""
    for case in session.cases(CASES, CASES):
        if case.name in DENSE:
            _dense_backward(session, case)
            continue
        mask = case.mask()
        density = float(mask.density())
        q, k, v, d_out = case.inputs(jax.random.key(0), 4, session.config.timed_dtype)
        timers = {
            name: _vjp(functools.partial(block_sparse_attention, mask=mask, implementation=name), q, k, v, d_out)
            for name in session.implementations("block_sparse_attention")
        }  # fmt: skip
        ours = list(timers)
        flops = dict.fromkeys(ours, round(2.5 * case.flops(density)))
        dense: dict[str, Timer] = {}
        if case.name in BESIDE_DENSE:
            if "cudnn" in session.implementations("dense_attention"):
                attend = functools.partial(dense_attention, implementation="cudnn")
                dense["dense cudnn"] = _vjp(attend, q, k, v, d_out)
            dense |= _torch(session, case, None, backward=True)
            timers |= dense
            flops |= dict.fromkeys(dense, round(2.5 * case.flops(1.0)))
        flex = _torch(session, case, mask, backward=True)
        timers |= flex
        flops |= dict.fromkeys(flex, round(2.5 * case.flops(density)))
        ms = session.race(case, density, timers, flops, dense, direction="backward")
        if case.name in BACKWARD_TARGETS:
            for name in (name for name in ours if name in ms):
                rate = flops[name] / ms[name] / 1e9
                what = f"{case.name} backward, {name}, selected FLOPs"
                session.verdict(what, rate, BACKWARD_TARGETS[case.name], "TFLOPS")


def _dense_backward(session: Session, case: Case) -> None:
    q, k, v, d_out = case.inputs(jax.random.key(0), 4, session.config.timed_dtype)
    timers = {
        f"dense {name}": _vjp(
            functools.partial(dense_attention, implementation=name), q, k, v, d_out
        )
        for name in _dense_names(session)
    }
    timers |= _torch(session, case, None, backward=True)
    flops = dict.fromkeys(timers, round(2.5 * case.flops(1.0)))
    session.race(case, 1.0, timers, flops, direction="backward")


def mass(session: Session) -> None:
    """AdaSpa's search pass, block_mass, beside the rate of its matrix product."""
    for case in session.cases(("S1", "S6", "V1"), SPARSE):
        q, k = case.inputs(jax.random.key(0), 2, session.config.timed_dtype)
        lse = jnp.full((case.batch, case.heads, case.slots), np.log(case.slots), jnp.float32)
        block = 128 if case.slots >= 1024 else 16
        names = session.implementations("block_mass")
        timers = {
            name: timer(
                jax.jit(functools.partial(block_mass, block_q=block, block_kv=block, implementation=name)),
                q, k, lse,
            )
            for name in names
        }  # fmt: skip
        # The whole product does not fit in memory: rows of one head, and the rate is what counts.
        rows = min(8192, case.slots)
        product = jax.jit(lambda q, k: jax.lax.dot_general(q, k, (((1,), (1,)), ((), ()))))
        timers["matrix product, a slice"] = timer(product, q[0, :rows, 0], k[0, :, 0])
        pair = 2 * case.slots * case.head_dim
        whole, part = case.batch * case.heads * case.slots * pair, rows * pair
        flops = dict.fromkeys(names, whole) | {"matrix product, a slice": part}
        ms = session.race(case, 1.0, timers, flops)
        for name in (name for name in names if name in ms and case.name == "S1"):
            ratio = whole / ms[name] / (part / ms["matrix product, a slice"])
            session.verdict(f"block_mass {name}, rate over a matrix product's", ratio, 0.8, "x")


def reorder(session: Session) -> None:
    """Raster order to tiles and back, for q, k, v and the output; a permutation for each head."""
    for case in session.cases(("S1", "S6"), SPARSE):
        order = case.order
        x, y = case.inputs(jax.random.key(0), 2, session.config.timed_dtype)
        raster = x[:, : case.tokens]
        grid, block = VideoGrid(*case.grid), 128
        orders = [TokenOrder(grid, block), TokenOrder(grid, block, axes=(1, 2, 0))]
        permutation = TokenPermutation.choose(orders, np.arange(case.heads, dtype=np.int32) % 2)
        timers = {
            "apply": timer(jax.jit(order.apply), raster),
            "undo": timer(jax.jit(order.undo), y),
            "reorder": _reorder(case, session.config.timed_dtype),
            "permutation, apply": timer(jax.jit(lambda p, x: p.apply(x)), permutation, raster),
            "copy": timer(jax.jit(lambda x: x + jnp.ones((), x.dtype)), raster),
        }
        ms = session.race(case, 1.0, timers, {})
        moved = dict.fromkeys(ms, 2 * raster.nbytes) | {"reorder": 8 * raster.nbytes}
        for name, taken in ms.items():
            print(f"  {case.name:12s} {name:24s} {moved[name] / taken / 1e6:9.0f} GB/s")


def dense(session: Session) -> None:
    """Dense attention on FlashAttention's problems: ours beside cuDNN and torch."""
    for case in session.cases(DENSE, DENSE):
        q, k, v = case.inputs(jax.random.key(0), 3, session.config.timed_dtype)
        timers = _dense(session, q, k, v) | _torch(session, case, None, backward=False)
        ms = session.race(case, 1.0, timers, dict.fromkeys(timers, case.flops(1.0)))
        ours = [name for name in ms if name.startswith("dense ") and name != "dense cudnn"]
        if "dense cudnn" in ms and case.head_dim == 128:
            for name in ours:
                ratio = ms["dense cudnn"] / ms[name]
                session.verdict(f"{case.name}, {name} over cuDNN", ratio, 0.95, "x")


def layer(session: Session) -> None:
    """Whole layers, raster order to raster order: STA, AdaSpa searching and not; and their parts."""
    for case in session.cases(("S1", "S6"), SPARSE):
        grid, dtype = VideoGrid(*case.grid), session.config.timed_dtype
        q, k, v = (x[:, : case.tokens] for x in case.inputs(jax.random.key(0), 3, dtype))
        mask = case.mask()
        name = session.chosen
        sta = functools.partial(
            sparse_attention, grid=grid, pattern=case.pattern, implementation=name
        )
        kernel = functools.partial(block_sparse_attention, implementation=name)
        inside = case.inputs(jax.random.key(0), 3, dtype)
        adaspa = AdaSpa(density=0.1, block=128 if case.tokens > 1024 else 16)
        sizes = {"batch": case.batch, "num_heads": case.heads, "head_dim": case.head_dim}
        step = jax.jit(functools.partial(attend, adaspa))
        first, search, reuse = (
            StepContext(grid, phase, kernel=KernelOptions(name))
            for phase in (Phase.FIRST_SEARCH, Phase.SEARCH, Phase.REUSE)
        )
        state = step(q, k, v, adaspa.init(grid, **sizes), first).state
        choose = jax.jit(adaspa.search)
        timers = {
            "STA layer": timer(jax.jit(sta), q, k, v),
            "STA kernel": timer(jax.jit(functools.partial(kernel, mask=mask)), *inside),
            "STA reorder": _reorder(case, dtype),
            "AdaSpa layer, search": timer(step, q, k, v, state, search),
            "AdaSpa layer, reuse": timer(step, q, k, v, state, reuse),
            "AdaSpa search and selection": timer(choose, q, k, state.lse, search),
        }
        session.race(case, float(mask.density()), timers, {})


def _sparse(session: Session, case: Case, mask: BlockMask, q, k, v) -> dict[str, Timer]:
    """Lists that a video's shape gives are constants, as they are in a model; drawn ones are arguments."""

    def attend(name):
        run = functools.partial(block_sparse_attention, implementation=name)
        if case.grid:
            return timer(jax.jit(functools.partial(run, mask=mask)), q, k, v)
        return timer(jax.jit(run), q, k, v, jax.device_put(mask))

    return {name: attend(name) for name in session.implementations("block_sparse_attention")}


def _lists_by_head(mask: BlockMask, heads: int) -> BlockMask:
    """The same lists, one copy for each head instead of one for all."""
    counts, lists = np.asarray(mask.kv_counts), np.asarray(mask.kv_indices)
    return dataclasses.replace(
        mask,
        kv_counts=counts.repeat(heads // counts.shape[1], 1),
        kv_indices=lists.repeat(heads // lists.shape[1], 1),
    )


def _dense(session: Session, q, k, v) -> dict[str, Timer]:
    def attend(name):
        return timer(jax.jit(functools.partial(dense_attention, implementation=name)), q, k, v)

    return {f"dense {name}": attend(name) for name in _dense_names(session)}


def _dense_names(session: Session) -> list[str]:
    return sorted(session.implementations("dense_attention"), key=lambda name: name != "cudnn")


def _torch(session: Session, case: Case, mask: BlockMask | None, *, backward: bool):
    """Torch's candidates: dense ones, or with a mask those that take the same blocks."""
    if not (session.config.torch and session.on_gpu):
        return {}
    make = (
        torch_baselines.dense if mask is None else functools.partial(torch_baselines.sparse, mask)
    )
    return make(case, session.config.timed_dtype, backward=backward)


def _vjp(attend, q, k, v, d_out) -> Timer:
    """A timer of the backward pass alone; the forward pass runs when it is first called."""
    pulls = []

    def run(calls):
        if not pulls:
            pull = jax.jit(lambda *x: jax.vjp(lambda *x: attend(*x)[0], *x)[1])(q, k, v)
            pulls.append(timer(jax.jit(lambda pull, d: pull(d)), pull, d_out))
        return pulls[0](calls)

    return run


def _reorder(case: Case, dtype: str = "bfloat16") -> Timer:
    """q, k and v to tiles, and the output back."""
    order = case.order
    x, y = case.inputs(jax.random.key(2), 2, dtype)
    raster = [x[:, : case.tokens] * factor for factor in (1, 2, 3)]

    def move(out, *raster):
        return order.undo(out), [order.apply(x) for x in raster]

    return timer(jax.jit(move), y, *raster)


PARTS = {f.__name__: f for f in (ceilings, forward, backward, mass, reorder, dense, layer)}
