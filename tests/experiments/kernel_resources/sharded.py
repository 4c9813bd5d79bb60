"""Attention on several H200s, for `deviceless`."""

import jax
import jax.numpy as jnp

from experiments.kernel_resources.deviceless import as_on_hopper
from sparsevdit_jax import KernelOptions, Phase, StepContext, VideoGrid
from sparsevdit_jax.patterns import AdaSpa, Dense, Diagonal, SlidingTile
from tests.attending import attended

GRID = VideoGrid(12, 16, 16)
WINDOWS = ((1, 1, 1), (2, 1, 1), (2, 2, 2), (1, 2, 2))


def cases(mesh):
    """Forward passes, heads that do and do not divide, lists shared and of their own; one backward."""
    place = jax.NamedSharding(mesh, jax.P("cfg", "seq"))

    def inputs(heads):
        shape = (2, GRID.num_tokens, heads, 128)
        return (jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=place),) * 3

    def attend(pattern, phase=Phase.REUSE):
        def f(q, k, v):
            state = pattern.init(GRID, batch=2, num_heads=q.shape[2], head_dim=128)
            ctx = StepContext(GRID, phase, kernel=KernelOptions("mosaic_gpu"))
            return attended(pattern, q, k, v, state, ctx)[0]

        return f

    def gradient(f):
        return jax.grad(lambda *qkv: f(*qkv).astype(jnp.float32).sum(), (0, 1, 2))

    window = SlidingTile((6, 8, 8), (1, 1, 1))
    runs = {
        "dense": (Dense(), Phase.DENSE, 8),
        "one window": (window, Phase.REUSE, 40),
        "windows of heads": (SlidingTile((6, 8, 8), WINDOWS * 10), Phase.REUSE, 40),
        "heads that are added": (Diagonal(0.5, block=128), Phase.REUSE, 6),
        "ring": (Diagonal(0.5, block=128), Phase.REUSE, 2),
        "search": (AdaSpa(0.25, block=128), Phase.SEARCH, 8),
    }
    for name, (pattern, phase, heads) in runs.items():
        yield name, as_on_hopper(attend(pattern, phase)), inputs(heads)
    yield "gradient", as_on_hopper(gradient(attend(window))), inputs(8)
