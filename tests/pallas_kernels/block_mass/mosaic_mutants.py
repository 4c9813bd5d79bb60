"""One wait or arrival of the Mosaic kernel left out: `python -m <this module> "k_free wait"`.

Prints clean, race, wrong or error; ends itself when it hangs (see `tests.mosaic`).
"""

import os
import sys

import jax.numpy as jnp
import numpy as np

from pallas_kernels import _hopper, _interpret
from pallas_kernels.block_mass import mosaic_gpu, reference
from tests import mosaic

MUTANTS = [
    "q_full wait",
    "k_full wait",
    *(f"{name} {end}" for name in ("k_free", "met") for end in ("wait", "arrive")),
]
CONFIG = mosaic_gpu.Config(256, 64, tile_kv=64, groups=1, fold=2, shared=True, stages=2)


def verdict(without: str) -> str:
    rng = np.random.default_rng(0)
    q, k = (jnp.asarray(rng.standard_normal((1, 256, 1, 64)), jnp.bfloat16) for _ in range(2))
    lse = jnp.full((1, 1, 256), 5.0)

    def call(q, k, shift):
        return mosaic_gpu.launch(CONFIG, 0.125, q, k, shift, None, without=without)

    shift = lse * np.float32(_hopper.LOG2E)
    try:
        mass, races_found = _interpret.run(call, q, k, shift, detect_races=True)
    except Exception as error:
        return f"{error}\nerror"
    blocks = {"block_q": 256, "block_kv": 64, "q_lengths": None, "kv_lengths": None}
    expected = reference.block_mass(q, k, lse, scale=0.125, **blocks)
    agrees = np.allclose(mass, expected, rtol=1e-5)
    return "race" if races_found else "clean" if agrees else "wrong"


if __name__ == "__main__":
    mosaic.give_up_when_idle()
    print(verdict(*sys.argv[1:]), flush=True)
    os._exit(0)  # what still waits in a simulated warp is not waited for
