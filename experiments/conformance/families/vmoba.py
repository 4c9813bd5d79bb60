"""VMoBA: chunks that each query chooses."""

import jax
import numpy as np

from experiments.conformance.check import close, same, softmax_roundings
from experiments.conformance.families.tiles import gradients
from sparsevdit_jax import StepContext, VideoGrid, sparse_attention
from sparsevdit_jax.patterns import VMoBA
from sparsevdit_jax.token_order import gather_indices


def vmoba(vectors):
    """Order, gates, chunks of every query, out and gradients."""
    chunk = np.atleast_1d(vectors["chunk_size"])
    chunk = (float(chunk[0]),) if len(chunk) == 1 else tuple(int(n) for n in chunk)
    grid = VideoGrid(*(int(n) for n in vectors["patch_resolution"]))
    pattern = VMoBA(
        chunk,
        str(vectors["select_mode"]),
        float(vectors["threshold"]),
        int(vectors["topk"]),
        str(vectors["threshold_type"]),
    )
    chunks = pattern.chunks(grid)
    to_order = gather_indices(chunks)
    yield same("order of the tokens", to_order, vectors["order"])
    ends = np.append(np.arange(chunks.num_blocks) * chunks.block, grid.num_tokens)
    yield same("chunks", ends, vectors["cu_chunk"])
    arrays = {x: np.moveaxis(vectors[x], 1, 2) for x in ("q", "k", "v")}
    arrays["do"] = np.moveaxis(vectors["dout"], 1, 2)

    @jax.jit
    def choose(q, k):
        gate = pattern.gate(q, k, chunks, StepContext(grid))
        plan, _ = pattern.plan(q, k, (), StepContext(grid))
        return gate, pattern.keep_chunks(gate, chunks, StepContext(grid)), plan.mask.to_dense()

    # The file has chunk, head, and query in the order of the chunks.
    gate, keep, planned = (
        np.asarray(x)[0].transpose(2, 0, 1)[..., to_order] for x in choose(arrays["q"], arrays["k"])
    )
    yield close("gates", gate, vectors["gate"], chunks.block / 2 + arrays["q"].shape[-1] / 2)
    yield same("chunks of every query", keep, vectors["chunk_mask"])
    yield same("the same in the plan", planned, vectors["chunk_mask"])

    def attend(q, k, v):
        return sparse_attention(q, k, v, grid=grid, pattern=pattern, return_lse=True)

    out, _, grads = gradients(attend, arrays)
    roundings = softmax_roundings(vectors["q"], vectors["k"])
    yield close("out", np.moveaxis(out, 1, 2), vectors["out"], roundings)
    roundings = softmax_roundings(vectors["q"], vectors["k"], gradient=True)
    for got, name in zip(grads, ("dq", "dk", "dv"), strict=True):
        yield close(name, np.moveaxis(got, 1, 2), vectors[name], roundings)


FAMILIES = {"vmoba_": vmoba}
