"""Nothing of size L x L outside `reference`: read off the programs, which are only traced."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import ClosedJaxpr, Jaxpr

from pallas_kernels import BlockMask, block_mass, block_sparse_attention, dense_attention
from sparsevdit_jax import KernelOptions, Phase, StepContext, VideoGrid
from sparsevdit_jax.patterns import AdaSpa, SlidingTile
from tests.attending import attended

GRID = VideoGrid(32, 32, 32)
LENGTH, HEADS, HEAD_DIM = GRID.num_tokens, 2, 64
LARGEST = LENGTH * LENGTH // 64
QKV = [jax.ShapeDtypeStruct((1, LENGTH, HEADS, HEAD_DIM), jnp.float32)] * 3
LSE = jax.ShapeDtypeStruct((1, HEADS, LENGTH), jnp.float32)


def block_sparse(q, k, v):
    keep = np.random.default_rng(0).random((1, HEADS, 256, 256)) < 0.125
    mask = BlockMask.from_dense(keep, block_q=128, block_kv=128)
    return block_sparse_attention(q, k, v, mask, implementation="xla")


def dense(q, k, v, implementation="xla"):
    return dense_attention(q, k, v, implementation=implementation)


def mass(q, k, lse, implementation="xla"):
    return block_mass(q, k, lse, block_q=64, block_kv=64, implementation=implementation)


def one_step(pattern, phase):
    def attend(q, k, v):
        state = pattern.init(GRID, batch=1, num_heads=HEADS, head_dim=HEAD_DIM)
        ctx = StepContext(GRID, phase, kernel=KernelOptions("xla"))
        return attended(pattern, q, k, v, state, ctx)

    return attend


ATTENTION = {
    "block_sparse_attention": block_sparse,
    "dense_attention": dense,
    "SlidingTile": one_step(SlidingTile((4, 8, 8), (3, 3, 3)), Phase.REUSE),
    "AdaSpa": one_step(AdaSpa(), Phase.FIRST_SEARCH),
}


def largest_array(function, *arguments):
    """Elements of the largest array that the program of a function names, at any depth."""
    return max(_sizes(jax.make_jaxpr(function)(*arguments).jaxpr))


def _sizes(jaxpr):
    for variables in ((*jaxpr.invars, *jaxpr.constvars), *(eqn.outvars for eqn in jaxpr.eqns)):
        yield from (math.prod(getattr(v.aval, "shape", ())) for v in variables)
    for eqn in jaxpr.eqns:
        for inner in jax.tree.leaves(eqn.params, is_leaf=_is_program):
            inner = inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner
            if isinstance(inner, Jaxpr):
                yield from _sizes(inner)


def _is_program(x):
    return isinstance(x, Jaxpr | ClosedJaxpr)


@pytest.mark.parametrize("attend", ATTENTION.values(), ids=ATTENTION)
def test_attention_holds_no_square_array_forward_or_backward(attend):
    def loss(q, k, v):
        out, lse, *_ = attend(q, k, v)
        return out.sum() + lse.sum()

    inputs = math.prod(QKV[0].shape)
    assert inputs <= largest_array(attend, *QKV) < LARGEST
    assert inputs <= largest_array(jax.grad(loss, (0, 1, 2)), *QKV) < LARGEST


def test_block_mass_holds_no_square_array():
    assert largest_array(mass, *QKV[:2], LSE) < LARGEST


def test_the_reference_is_seen_to_hold_them():
    square = HEADS * LENGTH**2
    attend, sums = (functools.partial(f, implementation="reference") for f in (dense, mass))
    assert largest_array(attend, *QKV) >= square
    assert largest_array(sums, *QKV[:2], LSE) >= square

    def nested(q, k, v):
        def attend_or_not(q):
            return jax.lax.cond(q.sum() > 0, lambda: attend(q, k, v)[0], lambda: q)

        return jax.lax.map(attend_or_not, q[None]).sum()

    assert largest_array(jax.grad(nested), *QKV) >= square
