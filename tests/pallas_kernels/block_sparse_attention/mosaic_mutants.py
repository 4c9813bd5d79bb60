"""The Mosaic kernel with one wait or arrival left out; see `tests.mosaic.judge`."""

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels import BlockMask
from pallas_kernels.block_sparse_attention import mosaic_gpu, reference
from tests import mosaic

CONFIGS = {
    "shared": (128, mosaic_gpu.Config(64, stages=2)),
    "own": (64, mosaic_gpu.Config(64, stages=2, shared=False, own_out=False)),
}
FULL = [f"{name} wait" for name in ("q_full", "k_full", "v_full")]
FREE = [f"{name} {end}" for name in ("q_free", "k_free", "v_free") for end in ("wait", "arrive")]
# With lists of their own, consumers differ in when they free queries, and free keys alone. Results
# leave from the memory of queries there, which a copy then fills; where only the thread that sent
# them writes again, as in the other structure, the race detector sees no race without the wait.
# The first, fourth, seventh ... are one of each kind. An arrival costs most: the hung kernel is waited for.
MUTANTS = [
    *(("shared", without) for without in (*FULL, *FREE, "turn wait", "turn arrive")),
    *(
        ("own", without)
        for without in ("q_free wait", "store wait", "q_free arrive", "k_free wait")
    ),
]


def verdict(structure: str, without: str) -> str:
    block_q, config = CONFIGS[structure]
    rng = np.random.default_rng(0)
    q = jnp.asarray(rng.standard_normal((1, 256, 1, 64)), jnp.bfloat16)
    k, v = (jnp.asarray(rng.standard_normal((1, 192, 1, 64)), jnp.bfloat16) for _ in range(2))
    mask = BlockMask.full(256 // block_q, 3, block_q=block_q, block_kv=64)
    lists = mosaic_gpu.plan_lists(mask, q, k, config)
    plan = mosaic_gpu.plan_work(lists, 1, 1, config, 1)

    def call(q, k, v):
        planned = jax.tree.map(jnp.asarray, (mask, lists, plan))
        return mosaic_gpu.launch(0.125, config, q, k, v, *planned, without=without)

    expected, _ = reference.block_sparse_attention(q, k, v, mask, scale=0.125)

    def agrees(results):
        error = np.asarray(results[0], np.float32) - np.asarray(expected, np.float32)
        return np.abs(error).max() < 0.02

    return mosaic.verdict(call, q, k, v, agrees=agrees)


if __name__ == "__main__":
    mosaic.judge(verdict)
