"""The Mosaic kernel with one wait or arrival left out; see `tests.mosaic.judge`."""

import jax.numpy as jnp
import numpy as np

from pallas_kernels import _hopper
from pallas_kernels.block_mass import mosaic_gpu, reference
from tests import mosaic

MUTANTS = [
    "q_full wait",
    "k_full wait",
    "k_free wait",
    "k_free arrive",
]
CONFIG = mosaic_gpu.Config(64, 64, tile_kv=64, stages=2)


def verdict(without: str) -> str:
    rng = np.random.default_rng(0)
    q, k = (jnp.asarray(rng.standard_normal((1, 256, 1, 64)), jnp.bfloat16) for _ in range(2))
    lse = jnp.full((1, 1, 256), 5.0)

    def call(q, k, shift):
        return mosaic_gpu.launch(CONFIG, 0.125, q, k, shift, None, without=without)

    shift = lse * np.float32(_hopper.LOG2E)
    blocks = {"block_q": 64, "block_kv": 64, "q_lengths": None, "kv_lengths": None}
    expected = reference.block_mass(q, k, lse, scale=0.125, **blocks)

    def agrees(mass):
        return np.allclose(mass, expected, rtol=1e-5)

    return mosaic.verdict(call, q, k, shift, agrees=agrees)


if __name__ == "__main__":
    mosaic.judge(verdict)
