import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import linear_attention
from pallas_kernels.linear_attention import xla
from tests import tolerances
from tests.conformance.linear_op_suite import BLOCKS, CASES, LinearAttentionSuite, make


class TestXla(LinearAttentionSuite):
    implementation = "xla"


@pytest.mark.parametrize("case", ["all", "ragged"])
def test_gradients_are_those_of_the_reference(case):
    q, k, v, kwargs, _ = make(**CASES[case])
    d_out = np.random.default_rng(5).standard_normal(q.shape).astype(np.float32)
    found = {}
    for name in ("reference", "xla"):
        call = functools.partial(linear_attention, **BLOCKS, **kwargs, implementation=name)
        found[name] = jax.jit(lambda call=call: jax.vjp(call, q, k, v)[1](d_out))()
    for name, got, want in zip("qkv", found["xla"], found["reference"], strict=True):
        assert np.isfinite(np.asarray(got)).all(), name
        tolerances.assert_rounding_apart(got, want, 3 * (12 + 8 + 2 * k.shape[1]), f"d{name}")


def test_bfloat16_and_a_small_chunk(monkeypatch):
    q, k, v, kwargs, _ = make(**CASES["pairs"])
    want = linear_attention(q, k, v, **BLOCKS, **kwargs)
    monkeypatch.setattr(xla, "_SUMS", 1)  # one query block in a chunk
    np.testing.assert_allclose(linear_attention(q, k, v, **BLOCKS, **kwargs), want, rtol=1e-6)
    half = [jnp.asarray(x, jnp.bfloat16) for x in (q, k, v)]
    out = linear_attention(*half, **BLOCKS, **kwargs)
    assert out.dtype == jnp.bfloat16
    exact_half = linear_attention(*(x.astype(jnp.float32) for x in half), **BLOCKS, **kwargs)
    np.testing.assert_allclose(out.astype(jnp.float32), exact_half, rtol=2**-8, atol=1e-7)


def test_no_array_of_all_token_pairs():
    lq = lk = 4096
    q = jax.ShapeDtypeStruct((1, lq, 2, 16), np.float32)
    pairs = jax.ShapeDtypeStruct((1, 2, 64, 64), np.bool_)

    def loss(q, k, v, pairs):
        return linear_attention(q, k, v, block_q=64, block_kv=64, pairs=pairs).sum()

    compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(q, q, q, pairs).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < lq * lk
