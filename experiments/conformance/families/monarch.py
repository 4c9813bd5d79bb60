"""MonarchRT (Infini-AI-Lab): attention of plain, tied and reduced tiles, and its gradients."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.conformance.check import close, same, softmax_roundings
from sparsevdit_jax import StepContext, VideoGrid, attend
from sparsevdit_jax.patterns import Monarch


def monarch(vectors):
    """Out and gradients; where a tile has one row or one column, also that it is dense attention."""
    frames, height, width = (int(vectors[x]) for x in "Fhw")
    grid, causal = VideoGrid(frames, height, width), int(vectors["causal_block"])
    parts = (int(vectors[x]) for x in ("num_iters", "f_tied", "h_reduce", "w_reduce"))
    pattern = Monarch(*parts, causal // (height * width) or None)
    tied, rows, columns = pattern.tile_on(grid)
    yield same("tile", (tied * rows, columns), (int(vectors["b1"]), int(vectors["b2"])))

    def run(q, k, v):
        return attend(pattern, q, k, v, (), StepContext(grid)).out

    qkv = (jnp.asarray(np.moveaxis(vectors[x], 1, 2), np.float32) for x in "qkv")
    out, vjp = jax.vjp(run, *qkv)
    grads = vjp(jnp.asarray(np.moveaxis(vectors["dout"], 1, 2), np.float32))
    # Each iteration holds two softmaxes, one of what the other gives.
    passes = 2 * pattern.iterations
    roundings = passes * softmax_roundings(vectors["q"], vectors["k"])
    yield close("out", jnp.moveaxis(out, 1, 2), vectors["out"], roundings)
    roundings = passes * softmax_roundings(vectors["q"], vectors["k"], gradient=True)
    for got, name in zip(grads, ("dq", "dk", "dv"), strict=True):
        yield close(name, jnp.moveaxis(got, 1, 2), vectors[name], roundings)


FAMILIES = {"monarch_": monarch}
