"""One wait or arrival of the Mosaic kernel left out: `python -m <this module> shared "k_free wait"`.

Prints clean, race, wrong, or error if the interpreter objects; ends itself when the kernel hangs.
"""

import os
import sys

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels import BlockMask, _interpret
from pallas_kernels.block_sparse_attention import mosaic_gpu, reference
from tests import mosaic

CONFIGS = {
    "shared": (128, mosaic_gpu.Config(64, stages=2)),
    "own": (64, mosaic_gpu.Config(64, stages=2, shared=False, own_out=False)),
}
FULL = [f"{name} wait" for name in ("q_full", "k_full", "v_full")]
FREE = [f"{name} {end}" for name in ("q_free", "k_free", "v_free") for end in ("wait", "arrive")]
# With lists of their own, consumers differ in when they free queries, and free keys alone.
MUTANTS = [
    *(("shared", without) for without in (*FULL, *FREE, "turn wait", "turn arrive")),
    *(("own", without) for without in FREE if without != "v_free arrive"),
]


def verdict(structure: str, without: str) -> str:
    block_q, config = CONFIGS[structure]
    rng = np.random.default_rng(0)
    q = jnp.asarray(rng.standard_normal((1, 256, 1, 64)), jnp.bfloat16)
    k, v = (jnp.asarray(rng.standard_normal((1, 256, 1, 64)), jnp.bfloat16) for _ in range(2))
    mask = BlockMask.full(256 // block_q, 4, block_q=block_q, block_kv=64)
    plan = mosaic_gpu.plan_work(mask, 1, 1, config, 1)

    def call(q, k, v):
        mask_and_plan = jax.tree.map(jnp.asarray, (mask, plan))
        return mosaic_gpu.launch(0.125, config, q, k, v, *mask_and_plan, without=without)

    try:
        (out, _), races_found = _interpret.run(call, q, k, v, detect_races=True)
    except Exception as error:
        return f"{error}\nerror"
    expected, _ = reference.block_sparse_attention(q, k, v, mask, scale=0.125)
    error = np.abs(np.asarray(out, np.float32) - np.asarray(expected, np.float32)).max()
    return "race" if races_found else "clean" if error < 0.02 else "wrong"


if __name__ == "__main__":
    mosaic.give_up_when_idle()
    print(verdict(*sys.argv[1:]), flush=True)
    os._exit(0)  # what still waits in a simulated warp is not waited for
