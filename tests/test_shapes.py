"""The shapes that public signatures state are those of what goes in and comes out (jaxtyping, beartype)."""

import beartype
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import pallas_kernels
from pallas_kernels import BlockMask
from sparsevdit_jax import (
    Phase,
    StepContext,
    TokenOrder,
    VideoGrid,
    attend,
    merge_by_lse,
    ops,
    sparse_attention,
)
from sparsevdit_jax.patterns import Diagonal

GRID = VideoGrid(2, 4, 4)
ORDER, CTX = TokenOrder(GRID, 8), StepContext(GRID, Phase.REUSE)
MASK = BlockMask.full(4, 4, block_q=8, block_kv=8)
Q = jax.random.normal(jax.random.key(0), (2, 32, 3, 8))
OTHER, LSE = Q[:, :24], jnp.zeros((2, 3, 32))
ACROSS = BlockMask.full(4, 3, block_q=8, block_kv=8)
LENGTHS = np.full((1, 1, 4), 8, np.int32)
BLOCKS = dict(block_q=8, block_kv=8)

CALLS = {
    "block_sparse_attention": (
        pallas_kernels.block_sparse_attention,
        (Q, OTHER, OTHER, ACROSS),
        {},
    ),
    "dense_attention": (pallas_kernels.dense_attention, (Q, OTHER, OTHER), {}),
    "block_mass": (
        pallas_kernels.block_mass,
        (Q, OTHER, LSE),
        BLOCKS | dict(q_lengths=LENGTHS, kv_lengths=LENGTHS[..., :3]),
    ),
    "linear_attention": (
        pallas_kernels.linear_attention,
        (Q, OTHER, OTHER),
        BLOCKS | dict(pairs=np.ones((1, 3, 4, 3), bool), kv_lengths=LENGTHS[..., :3]),
    ),
    "attend": (attend, (Diagonal(0.5, 8), Q, Q, Q, (), CTX), {}),
    "sparse_attention": (
        sparse_attention,
        (Q, Q, Q),
        dict(grid=GRID, pattern=Diagonal(0.5, 8), return_lse=True),
    ),
    "attend_blocks": (ops.attend_blocks, (Q, Q, Q, MASK, ORDER, None, CTX), {}),
    "attend_dense": (ops.attend_dense, (Q, Q, Q, CTX), {}),
    "attend_across": (ops.attend_across, (Q, OTHER, OTHER), {}),
    "attention_mass": (ops.attention_mass, (Q, Q, LSE, ORDER, CTX), {}),
    "merge_by_lse": (merge_by_lse, ([(Q, LSE), (Q, LSE)],), {}),
}


def checked(function):
    return jaxtyping.jaxtyped(typechecker=beartype.beartype)(function)


@pytest.mark.parametrize("name", CALLS)
def test_what_goes_in_and_comes_out_has_the_stated_shapes(name):
    function, arguments, options = CALLS[name]
    checked(function)(*arguments, **options)


@pytest.mark.parametrize("name", CALLS)
def test_another_shape_is_not_what_a_signature_states(name):
    """Each array in turn loses its last axis, which no signature allows."""
    function, arguments, options = CALLS[name]
    places = [i for i, x in enumerate(arguments) if isinstance(x, jax.Array)]
    for i in places:
        wrong = [*arguments]
        wrong[i] = wrong[i][..., 0]
        with pytest.raises(jaxtyping.TypeCheckError):
            checked(function)(*wrong, **options)
    if not places:
        with pytest.raises(jaxtyping.TypeCheckError):
            checked(function)([(Q[..., 0], LSE)])
