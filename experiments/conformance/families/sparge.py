"""SpargeAttn's block maps, of half-precision q and k without a grid."""

import jax.numpy as jnp
import numpy as np

from experiments.conformance.check import same
from sparsevdit_jax import StepContext, VideoGrid
from sparsevdit_jax.patterns import SpargeAttn


def sparge(vectors):
    """Every case of a file; a causal one leaves out blocks that begin after a block of queries ends."""
    for case in sorted(name.removesuffix("__params") for name in vectors if "__params" in name):
        block_q, block_kv, similarity, mass, density, causal, sink = vectors[f"{case}__params"]
        pattern = SpargeAttn(
            None if np.isnan(density) else float(density),
            None if np.isnan(mass) else float(mass),
            float(similarity),
            int(block_q),
            int(block_kv),
            sink=bool(sink),
        )
        q, k = (jnp.moveaxis(jnp.asarray(vectors[f"{case}__{x}"]), 1, 2) for x in "qk")
        ctx = StepContext(VideoGrid(1, 1, q.shape[1]))
        allowed = None
        if causal:
            rows, columns = (order.num_blocks for order in pattern.orders(ctx.grid))
            ends = (np.arange(rows) + 1) * block_q / block_kv
            allowed = np.arange(columns)[None] < ends[:, None]
        found = pattern.choose(*pattern.scores(q, k, ctx), ctx, allowed=allowed)
        yield same(f"blocks of {case}", found, vectors[f"{case}__block_map"])


FAMILIES = {"sparge_block_maps": sparge}
