import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import _interpret, dense_attention
from pallas_kernels.block_sparse_attention import mosaic_gpu
from tests import mosaic
from tests.tolerances import assert_within_budget, exact_attention, plain_attention


@mosaic.needs_interpreter
def test_ragged_rows_match_float64(monkeypatch):
    # Most of the time that a block of threads is interpreted goes into starting it; these rows are tiles for six.
    monkeypatch.setitem(mosaic_gpu.attention.__kwdefaults__, "num_sms", 2)
    rng = np.random.default_rng(0)
    shapes = (2, 200, 1, 64), (2, 150, 1, 64)
    q, k, v = (jnp.asarray(rng.standard_normal(shapes[i > 0]), jnp.bfloat16) for i in range(3))
    q_lengths, kv_lengths = np.array([200, 70], np.int32), np.array([131, 150], np.int32)
    keep = (np.arange(200) < q_lengths[:, None])[:, None, :, None]
    keep = keep & (np.arange(150) < kv_lengths[:, None])[:, None, None]
    d_out, d_lse = jnp.zeros_like(q), jnp.zeros((2, 1, 200))
    exact = exact_attention(q, k, v, keep, 0.125, d_out, d_lse)[:2]
    plain = plain_attention(q, k, v, keep, 0.125, d_out, d_lse)[:2]
    live = np.broadcast_to(keep.any(-1), plain[1].shape)
    plain = plain[0], jnp.where(live, plain[1], -jnp.inf)
    lengths = dict(q_lengths=jnp.asarray(q_lengths), kv_lengths=jnp.asarray(kv_lengths))
    call = jax.jit(lambda *x: dense_attention(*x, **lengths, implementation="mosaic_gpu"))
    (out, lse), _ = _interpret.run(call, q, k, v)
    assert_within_budget(out, exact[0], plain[0], jnp.bfloat16, "out")
    assert_within_budget(lse, exact[1], plain[1], jnp.float32, "lse")


def test_refuses_a_cpu():
    q = jnp.zeros((1, 8, 1, 64), jnp.bfloat16)
    with pytest.raises(NotImplementedError, match=r"Hopper GPU|jax >= 0\.11\.2"):
        dense_attention(q, q, q, implementation="mosaic_gpu")
