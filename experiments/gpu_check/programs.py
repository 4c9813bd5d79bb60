"""The programs whose results are checked, and how they are run: twice, over poisoned memory."""

import jax
import jax.numpy as jnp

from pallas_kernels import block_sparse_attention, dense_attention

NAMES = ("out", "lse", "d_q", "d_k", "d_v")


def poison(results) -> None:
    """Leaves NaN in the free memory that arrays of these shapes will be given next."""
    held = [jnp.full(x.shape, jnp.nan, x.dtype) for x in jax.tree.leaves(results) for _ in range(3)]
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


def attend(name, mask, q, k, v, d_out, d_lse):
    """out, lse, d_q, d_k, d_v of an implementation of block-sparse attention."""

    def run(q, k, v):
        return block_sparse_attention(q, k, v, mask, implementation=name)

    return _with_gradients(run, q, k, v, d_out, d_lse)


def attend_densely(name, lengths, q, k, v, d_out, d_lse):
    """The same of dense attention; `lengths` are q_lengths and kv_lengths, or none."""

    def run(q, k, v):
        return dense_attention(q, k, v, implementation=name, **lengths)

    return _with_gradients(run, q, k, v, d_out, d_lse)


def _with_gradients(run, q, k, v, d_out, d_lse):
    results, vjp = jax.vjp(run, q, k, v)
    return *results, *vjp((d_out, d_lse))
