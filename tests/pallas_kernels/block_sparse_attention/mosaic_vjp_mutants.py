"""A backward pass with one wait, arrival or fence left out; see `tests.mosaic.judge`."""

import jax.numpy as jnp
import numpy as np

from pallas_kernels import BlockMask
from pallas_kernels.block_sparse_attention import mosaic_gpu_vjp
from tests import mosaic

CONFIGS = {
    "shared": (128, mosaic_gpu_vjp.Config(64, stages=2, shared=True, sums=1)),
    "own": (64, mosaic_gpu_vjp.Config(64, stages=2, shared=False, sums=2)),
}
ENDS = ("own wait", "full wait", "free wait", "free arrive")
MUTANTS = [(structure, without) for structure in CONFIGS for without in ENDS]
MUTANTS.append(("own", "statistics fence"))


def verdict(structure: str, without: str) -> str:
    block, config = CONFIGS[structure]
    rng = np.random.default_rng(0)

    def draw(length):
        return jnp.asarray(rng.standard_normal((1, length, 1, 64)) / 8, jnp.bfloat16)

    x, y, u, w = draw(128), draw(128), draw(256), draw(256)
    stats = jnp.full((1, 1, 2, 128 if config.sums == 1 else 256), 0.5)
    mask = BlockMask.full(128 // block, 4, block_q=block, block_kv=64)
    lists = mosaic_gpu_vjp.plan_lists(mask, 128, 256, config)

    def call(*arrays):
        return mosaic_gpu_vjp.launch(
            1.0, config, arrays[:2], arrays[2:4], arrays[4], lists, without=without
        )

    arrays = x, y, u, w, stats
    x, y, u, w = (np.asarray(a, np.float32)[0, :, 0] for a in (x, y, u, w))
    p = np.exp(x @ u.T - 0.5 * np.log(2))
    expected = (p * (y @ w.T - 0.5)) @ u, p @ w

    def agrees(sums):
        return all(
            np.abs(np.asarray(got, np.float32)[0, :, 0] - want).max() < 0.02 * np.abs(want).max()
            for got, want in zip(sums, expected, strict=False)
        )

    return mosaic.verdict(call, *arrays, agrees=agrees)


if __name__ == "__main__":
    mosaic.judge(verdict)
