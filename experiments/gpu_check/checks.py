"""Part `check`: every kernel against `reference`, and at full size against float64."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.gpu_check.oracle import Rows, check_close, key_gradients
from experiments.gpu_check.session import OPERATIONS, Session
from experiments.gpu_check.shapes import CASES, Case
from pallas_kernels import BlockMask, block_mass, block_sparse_attention, dense_attention

NAMES = ("out", "lse", "d_q", "d_k", "d_v")
FULL_SIZE = ("S1", "S6", "V4", "D1_2048_64")


@dataclasses.dataclass(frozen=True)
class Small:
    """A problem small enough for `reference`, with every kind of row.

    Attributes:
      block_q: tokens of a query block.
      block_kv: tokens of a key block.
      rows: query blocks; the first is empty, the second full, the rest random.
      columns: key blocks.
      ragged: blocks hold fewer real tokens than slots; padding holds NaN.
      shared: one mask for all heads and batch items.
      batch: B.
      heads: H.
    """

    block_q: int
    block_kv: int
    rows: int = 5
    columns: int = 6
    ragged: bool = False
    shared: bool = False
    batch: int = 1
    heads: int = 2

    def mask(self, rng: np.random.Generator) -> BlockMask:
        """Random lists and lengths."""
        lead = (1, 1) if self.shared else (self.batch, self.heads)
        keep = rng.random((*lead, self.rows, self.columns)) < 0.4
        keep[:, :, 0], keep[:, :, 1] = False, True
        lengths = {}
        if self.ragged:
            for name, block, n in (("q", self.block_q, self.rows), ("kv", self.block_kv, self.columns)):  # fmt: skip
                sizes = rng.integers(0, block + 1, (lead[0], 1, n), np.int32)
                sizes[..., -1] = block // 2 + 1
                lengths[f"{name}_lengths"] = sizes
        return BlockMask.from_dense(
            keep, block_q=self.block_q, block_kv=self.block_kv, **lengths
        )  # fmt: skip


PROBLEMS = (
    Small(64, 64),
    Small(128, 128, ragged=True, batch=2),
    Small(64, 128, rows=7, shared=True),
    Small(128, 64, ragged=True),
    Small(192, 192, rows=3, columns=4, ragged=True),
    Small(256, 256, rows=3, columns=3),
    Small(384, 384, rows=3, columns=3, ragged=True, shared=True),
)


def check(session: Session) -> None:
    """All checks; failures are gathered in the session."""
    keys = iter(jax.random.split(jax.random.key(session.seed), 1000))
    rng = np.random.default_rng(session.seed)
    dtypes = ("bfloat16", "float16") if session.on_gpu else ("float32",)
    dry = session.config.dry_run
    problems, dims = (PROBLEMS[1:2], (64,)) if dry else (PROBLEMS, (64, 128))
    for name in session.implementations("block_sparse_attention"):
        for dtype in dtypes:
            for dim in dims:
                for problem in problems:
                    what = f"{name}, {dtype}, D {dim}, {problem}"
                    task = functools.partial(_small, problem, name, dtype, dim, next(keys), rng)
                    session.attempt(what, task)
    if dry and "mosaic_gpu" in OPERATIONS["block_sparse_attention"]:
        session.attempt("mosaic_gpu, interpreted", lambda: _interpreted(next(keys), rng))
    dtype = session.config.dtype if session.on_gpu else "float32"
    for case in session.cases(FULL_SIZE, CASES):
        for name in session.implementations("block_sparse_attention"):
            task = functools.partial(_full_size, case, name, dtype, next(keys), rng)
            session.attempt(f"{name}, {case.name}, float64 on a sample of rows", task)
        for name in session.implementations("dense_attention"):
            task = functools.partial(_dense, case, name, dtype, next(keys), rng)
            session.attempt(f"dense_attention {name}, {case.name}", task)
        for name in session.implementations("block_mass"):
            task = functools.partial(_mass, case, name, dtype, next(keys), rng)
            session.attempt(f"block_mass {name}, {case.name}", task)


def poison(results) -> None:
    """Leaves NaN in the free memory that arrays of these shapes will be given next."""
    shapes = jax.tree.leaves(jax.eval_shape(lambda: results) if callable(results) else results)
    held = [jnp.full(x.shape, jnp.nan, x.dtype) for x in shapes for _ in range(3)]
    jax.block_until_ready(held)
    del held


def twice(program, *arguments):
    """The results of a program, run twice over poisoned memory.

    Raises:
      ArithmeticError: the two runs differ in a bit.
    """
    shapes = jax.eval_shape(program, *arguments)
    poison(shapes)
    first = jax.block_until_ready(program(*arguments))
    poison(shapes)
    second = program(*arguments)
    for name, a, b in zip(NAMES, jax.tree.leaves(first), jax.tree.leaves(second), strict=False):
        if not bool(jnp.array_equal(a, b, equal_nan=True)):
            raise ArithmeticError(f"{name} differs between two runs on the same inputs")
    return first


def _attend(name, mask, q, k, v, d_out, d_lse):
    """out, lse, d_q, d_k, d_v."""

    def attend(q, k, v):
        return block_sparse_attention(q, k, v, mask, implementation=name)

    results, vjp = jax.vjp(attend, q, k, v)
    return *results, *vjp((d_out, d_lse))


def _small(problem: Small, name, dtype, dim, key, rng) -> str:
    mask = problem.mask(rng)
    lengths = [n * b for n, b in ((problem.rows, problem.block_q), (problem.columns, problem.block_kv))]  # fmt: skip
    shapes = [(problem.batch, length, problem.heads, dim) for length in lengths]
    keys = jax.random.split(key, 5)
    q, k, v, d_out = (
        jax.random.normal(a, shape, dtype)
        for a, shape in zip(keys, (*shapes, shapes[1], shapes[0]), strict=False)
    )
    d_lse = jax.random.normal(keys[4], (problem.batch, problem.heads, lengths[0]))
    dirty = [_fill_padding(x, mask.real_queries if x.shape == q.shape and i in (0, 3) else mask.real_keys)
             for i, x in enumerate((q, k, v, d_out))]  # fmt: skip
    run = jax.jit(functools.partial(_attend, name))
    got = twice(run, mask, *dirty, d_lse)
    exact = jax.jit(functools.partial(_attend, "reference"))(
        mask, *(x.astype(jnp.float32) for x in (q, k, v, d_out)), d_lse
    )
    errors = [check_close(*entry, dtype) for entry in zip(NAMES, got, exact, strict=True)]
    return " ".join(f"{n} {e:.1e}" for n, e in zip(NAMES, errors, strict=True))


def _interpreted(key, rng) -> str:
    """Where there is no GPU: one small problem in JAX's interpreter of Mosaic kernels."""
    from pallas_kernels import _interpret

    problem = Small(64, 64, rows=3, columns=3, ragged=True, heads=1)
    return _interpret.run(_small, problem, "mosaic_gpu", "bfloat16", 64, key, rng).results


def _fill_padding(x, real_tokens):
    real = real_tokens(x.shape[1])
    if real is None:
        return x
    return jnp.where(real.swapaxes(1, 2)[..., None], x, jnp.nan).astype(x.dtype)


def _sample(case: Case, rng, count=8):
    """(batch, head) and some tokens, the last one too; padding may be among them."""
    at = int(rng.integers(case.batch)), int(rng.integers(case.heads))
    return at, np.append(rng.integers(0, case.slots, count - 1), case.slots - 1)


def _full_size(case: Case, name, dtype, key, rng) -> str:
    mask, scale = case.mask(), case.head_dim**-0.5
    q, k, v, d_out = case.inputs(key, 4, dtype)
    d_lse = jax.random.normal(key, (case.batch, case.heads, case.slots))
    got = twice(jax.jit(functools.partial(_attend, name)), mask, q, k, v, d_out, d_lse)
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
