import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import dense_attention

Q = jnp.zeros((2, 5, 2, 4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"implementation": "flash"}, "choose one of reference, xla, cudnn, mosaic_gpu, triton"),
        ({"q_lengths": np.array([1], np.int32)}, r"q_lengths is int32 \(1,\)"),
        ({"kv_lengths": np.array([1, 6], np.int32)}, r"kv_lengths spans 1\.\.6; .* within 0\.\.5"),
        ({"v": Q[:1]}, "batch, heads and head dim must agree"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        dense_attention(**({"q": Q, "k": Q, "v": Q} | arguments))


def test_default_order_takes_what_runs_here():
    out, lse = dense_attention(Q, Q, Q)
    np.testing.assert_array_equal(out, 0)
    np.testing.assert_allclose(lse, np.log(5), rtol=1e-6)
