"""Parts `machine`, `launch` and `check`: every kernel against `reference`, and at full size against float64."""

import functools
import itertools
import zlib
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from experiments.gpu_check import small
from experiments.gpu_check.oracle import Rows, check_close, key_gradients
from experiments.gpu_check.programs import NAMES, attend, twice
from experiments.gpu_check.session import Session
from experiments.gpu_check.shapes import CASES, SPARSE, Case
from pallas_kernels import BlockMask, block_mass, block_sparse_attention, dense_attention
from sparsevdit_jax import VideoGrid

FULL_SIZE = ("S1", "S6", "V4", "D1_2048_64")
IN_DRY_RUNS = ("128x128", "dense_ragged", "mass_odd", small.ORDER)
SMALL = (*small.PROBLEMS, small.ORDER)

Work = tuple[str, tuple[str, Callable[[], str]]]
"""Name of a problem, for --case; what is checked; the check."""


def machine(session: Session) -> None:
    """What is here, and whether it computes at all."""

    def computes() -> str:
        x = jax.random.normal(jax.random.key(session.seed), (512, 512), session.config.timed_dtype)
        got = jax.jit(lambda x: jnp.dot(x, x, preferred_element_type=jnp.float32))(x)
        wide = np.asarray(x, np.float64)
        return f"product {check_close('out', got, wide @ wide, session.config.timed_dtype):.1e}"

    session.attempt(f"{jax.device_count()} x {jax.devices()[0].device_kind} computes", computes)


def launch(session: Session) -> None:
    """One launch of the forward kernel of each problem, for a profiler."""
    for case in session.cases(("S1", "V4"), SPARSE):
        q, k, v = case.inputs(jax.random.key(0), 3, session.config.timed_dtype)
        for name in session.implementations("block_sparse_attention"):
            run = functools.partial(block_sparse_attention, implementation=name)
            jax.block_until_ready(jax.jit(run)(q, k, v, case.mask()))
            print(f"  {case.name}: {name} launched once", flush=True)


def check(session: Session) -> None:
    """All checks, until the part's time is used up; failures are gathered in the session."""
    for what, task in session.in_time([*_small(session), *_full_size(session)]):
        session.attempt(what, task)


def _small(session: Session) -> Iterator[Work]:
    dry = session.config.dry_run
    dtypes = session.config.dtype or (("bfloat16", "float16") if session.on_gpu else ("float32",))
    # Every problem in the precision that matters most comes before any in another.
    for dtype, dim in itertools.product(dtypes, session.config.head_dim[-1 if dry else 0 :]):
        for case, problem in small.PROBLEMS.items():
            if dry and case not in IN_DRY_RUNS and case not in session.config.case:
                continue
            for name in session.implementations(problem.operation):
                task = functools.partial(problem.check, name, dtype, dim, *draws(session, case))
                yield case, (f"{case}: {name}, {dtype}, D {dim}, {problem}", task)
    key, _ = draws(session, small.ORDER)
    grid, tile = VideoGrid(5, 6, 7, text_len=9), (2, 4, 4)
    task = functools.partial(small.orders, grid, tile, 3, dtypes[0], key)
    yield small.ORDER, (f"token orders of {grid}, tiles of {tile}", task)


def _full_size(session: Session) -> Iterator[Work]:
    dtype = session.config.timed_dtype if session.on_gpu else "float32"
    checks = {
        "block_sparse_attention": _sparse,
        "dense_attention": _dense,
        "block_mass": _mass,
    }
    for name in FULL_SIZE:
        case = CASES[name].small() if session.config.dry_run else CASES[name]
        for operation, run in checks.items():
            for chosen in session.implementations(operation):
                task = functools.partial(run, case, chosen, dtype, *draws(session, name))
                yield name, (f"{operation} {chosen}, {name}, float64 on a sample of rows", task)
        if case.grid:
            key, _ = draws(session, name)
            task = functools.partial(
                small.orders, VideoGrid(*case.grid), case.tile, case.heads, dtype, key
            )
            yield name, (f"token orders of {name}", task)


def draws(session: Session, name: str):
    """A key and a generator of a problem: the same whichever other problems are checked."""
    number = zlib.crc32(name.encode())
    key = jax.random.fold_in(jax.random.key(session.seed), number)
    return key, np.random.default_rng([session.seed, number])


def _sample(case: Case, rng, count=8):
    """(batch, head) and some tokens, the last one too; padding may be among them."""
    at = int(rng.integers(case.batch)), int(rng.integers(case.heads))
    return at, np.append(rng.integers(0, case.slots, count - 1), case.slots - 1)


def _sparse(case: Case, name, dtype, key, rng) -> str:
    mask, scale = case.mask(), case.head_dim**-0.5
    q, k, v, d_out = case.inputs(key, 4, dtype)
    d_lse = jax.random.normal(key, (case.batch, case.heads, case.slots))
    got = twice(jax.jit(functools.partial(attend, name)), mask, q, k, v, d_out, d_lse)
    out, lse, *grads = got
    if not all(bool(jnp.isfinite(x).all()) for x in (out, *grads)):
        raise ArithmeticError("NaN or inf in a result: an entry was never written, or is wrong")
    errors = dict.fromkeys(NAMES, 0.0)
    for _ in range(2):
        at, tokens = _sample(case, rng)
        rows = Rows(q, k, v, mask, at, tokens, scale)
        exact = rows.out, rows.lse, rows.d_query(d_out, d_lse)
        exact += key_gradients(q, k, v, mask, at, tokens, scale, out, lse, d_out, d_lse)
        mine = out[at[0], tokens, at[1]], lse[at[0], at[1], tokens]
        mine += tuple(x[at[0], tokens, at[1]] for x in grads)
        for entry in zip(NAMES, mine, exact, strict=True):
            errors[entry[0]] = max(errors[entry[0]], check_close(*entry, dtype))
    return " ".join(f"{n} {e:.1e}" for n, e in errors.items())


def _dense(case: Case, name, dtype, key, rng) -> str:
    q, k, v = case.inputs(key, 3, dtype)
    run = jax.jit(functools.partial(dense_attention, implementation=name))
    out, lse = twice(run, q, k, v)
    at, tokens = _sample(case, rng)
    mask = BlockMask.full(1, 1, block_q=case.slots, block_kv=case.slots)
    rows = Rows(q, k, v, mask, at, tokens, case.head_dim**-0.5)
    errors = (
        check_close("out", out[at[0], tokens, at[1]], rows.out, dtype),
        check_close("lse", lse[at[0], at[1], tokens], rows.lse, dtype),
    )
    return "out {:.1e} lse {:.1e}".format(*errors)


def _mass(case: Case, name, dtype, key, rng) -> str:
    q, k = case.inputs(key, 2, dtype)
    block, scale = min(case.block, 128), case.head_dim**-0.5
    # An lse of the right size is enough: the oracle reads the same one.
    lse = jnp.log(float(case.slots)) + 0.1 * jax.random.normal(key, (case.batch, case.heads, case.slots))  # fmt: skip
    run = jax.jit(functools.partial(block_mass, block_q=block, block_kv=block, implementation=name))
    mass = twice(run, q, k, lse)
    at = int(rng.integers(case.batch)), int(rng.integers(case.heads))
    row = int(rng.integers(case.slots // block))
    queries = np.arange(row * block, (row + 1) * block)
    mask = BlockMask.full(1, 1, block_q=case.slots, block_kv=case.slots)
    logits = Rows(q, k, k, mask, at, queries, scale).logits
    weights = np.exp(logits - np.asarray(lse[at], np.float64)[queries, None]).sum(0)
    exact = np.add.reduceat(weights, np.arange(0, case.slots, block))
    return f"mass {check_close('mass', mass[at][row], exact, dtype):.1e}"
