import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import block_mass

Q = jnp.zeros((1, 8, 2, 4))
LSE = jnp.zeros((1, 2, 8))
GOOD = {"q": Q, "k": Q, "lse": LSE, "block_q": 4, "block_kv": 4}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"implementation": "triton"}, "choose one of reference, xla, mosaic_gpu"),
        ({"lse": LSE.swapaxes(1, 2)}, r"lse is float32 \(1, 8, 2\); .* \[B, H, Lq\] = \(1, 2, 8\)"),
        ({"lse": LSE.astype(jnp.bfloat16)}, "lse is bfloat16"),
        ({"block_q": 0}, "block_q=0 must be a whole number of at least 1"),
        ({"q_lengths": np.array([[[4]]], np.int32)}, r"q_lengths .*\(any, any, 2\)"),
        ({"kv_lengths": np.array([[[4, 5]]], np.int32)}, r"kv_lengths spans 4\.\.5"),
        (
            {"kv_lengths": np.ones((1, 3, 2), np.int32)},
            r"kv_lengths is for \(batch, heads\) = \(1, 3\)",
        ),
        ({"k": Q[:, :, :1]}, "batch, heads and head dim must agree"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        block_mass(**(GOOD | arguments))
