import inspect
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pallas_kernels
import sparsevdit_jax
from pallas_kernels.block_sparse_attention import api
from sparsevdit_jax import VideoGrid, sparse_attention
from sparsevdit_jax.patterns import AdaSpa, Dense, Diagonal, SlidingTile, Table
from tests.sparsevdit_jax.patterns.test_per_head import Mean
from tests.sparsevdit_jax.test_pattern import Own

GRID = VideoGrid(4, 4, 4)


def inputs(dtype=jnp.float32):
    return jax.random.normal(jax.random.key(0), (3, 1, 64, 2, 8)).astype(dtype)


def test_scale_and_implementation_reach_the_kernel():
    qkv, kwargs = inputs(), {"grid": GRID, "pattern": SlidingTile((2, 2, 2), (1, 3, 1))}
    plain = sparse_attention(*qkv, **kwargs, implementation="reference")
    np.testing.assert_allclose(sparse_attention(*qkv, **kwargs), plain, rtol=1e-5, atol=1e-5)
    scaled = sparse_attention(*qkv, **kwargs, scale=0.7)
    q, k, v = qkv
    expected = sparse_attention(q * (0.7 * 8**0.5), k, v, **kwargs)
    np.testing.assert_allclose(scaled, expected, rtol=1e-5, atol=1e-5)


def test_low_precision_in_and_out():
    qkv, kwargs = inputs(), {"grid": GRID, "pattern": Diagonal(0.5, 8), "return_lse": True}
    out, lse = sparse_attention(*qkv.astype(jnp.bfloat16), **kwargs)
    assert (out.dtype, lse.dtype) == (jnp.bfloat16, jnp.float32)
    exact, _ = sparse_attention(*qkv.astype(jnp.bfloat16).astype(jnp.float32), **kwargs)
    np.testing.assert_allclose(out.astype(jnp.float32), exact, atol=3e-2)


def test_inside_jit_and_grad():
    qkv = inputs()

    @jax.jit
    def loss(qkv):
        return sparse_attention(*qkv, grid=GRID, pattern=Diagonal(0.5, 8)).sum()

    assert np.isfinite(jax.grad(loss)(qkv)).all()


@pytest.mark.parametrize("pattern", [AdaSpa(0.5, 8), Table((Dense(),), ((0, 0), (0, 0))), Mean()])
def test_patterns_that_change_between_steps_are_refused(pattern):
    with pytest.raises(ValueError, match=r"changes between steps; use state = pattern.init"):
        sparse_attention(*inputs(), grid=GRID, pattern=pattern)


def test_a_table_of_one_step_is_static():
    kwargs = {"grid": GRID}
    out = sparse_attention(*inputs(), **kwargs, pattern=Table((Own(8),), ((0, 0),)))
    expected = sparse_attention(*inputs(), **kwargs, pattern=Own(8))
    np.testing.assert_array_equal(out, expected)


def test_bad_inputs():
    qkv = inputs()
    with pytest.raises(ValueError, match=r"q has 64 tokens, but VideoGrid.* has 48"):
        sparse_attention(*qkv, grid=VideoGrid(3, 4, 4), pattern=Dense())
    with pytest.raises(ValueError, match=r"text_lengths=\[3\] must lie in 0\.\.0"):
        sparse_attention(*qkv, grid=GRID, pattern=Dense(), text_lengths=[3])
    q, k, v = qkv
    with pytest.raises(ValueError, match="of one shape and dtype"):
        sparse_attention(q, k.astype(jnp.bfloat16), v, grid=GRID, pattern=Dense())
    with pytest.raises(ValueError, match="no_such"):
        sparse_attention(*qkv, grid=GRID, pattern=Dense(), implementation="no_such")


def test_few_functions_lie_between_the_call_and_the_kernel(monkeypatch):
    """What a reader has to walk through; counted on one device, in a sparse step."""
    walk = []

    def kernel(q, k, v, mask, **options):
        ours = {Path(package.__file__).parent for package in (sparsevdit_jax, pallas_kernels)}
        for frame in inspect.stack()[1:]:
            if ours & set(Path(frame.filename).parents):
                walk.append(frame.function)
        return q, jnp.zeros((q.shape[0], q.shape[2], q.shape[1]))

    monkeypatch.setitem(api.IMPLEMENTATIONS, "xla", kernel)
    q = jnp.ones((1, 32, 1, 4))
    pattern = Diagonal(0.5, 8)
    sparse_attention(q, q, q, grid=VideoGrid(2, 4, 4), pattern=pattern, implementation="xla")
    assert walk[-1] == "sparse_attention"
    assert len(walk) <= 10, walk
