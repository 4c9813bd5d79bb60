"""Skip-softmax and LiteAttention: key blocks left out by what their logits are."""

import jax.numpy as jnp
import numpy as np

from experiments.conformance.check import close, same, softmax_roundings
from pallas_kernels import tile_gaps
from sparsevdit_jax import StepContext, VideoGrid, attend, sparse_attention
from sparsevdit_jax.patterns import LiteAttention, SkipSoftmax


def skip_softmax(vectors):
    """Gaps to the running maximum, kept blocks by the kernel's and the torch rule, and out."""
    q, k, v = (jnp.moveaxis(jnp.asarray(vectors[x], np.float32), 1, 2) for x in ("q", "k", "v"))
    length, (block_q, block_kv) = q.shape[1], (int(vectors[x]) for x in ("br", "bc"))
    threshold, (a, b, target) = float(vectors["threshold"]), vectors["a_b_target"]
    pattern = SkipSoftmax(threshold, block_q, block_kv)
    if not np.isnan(a):
        pattern = SkipSoftmax(0.1, block_q, block_kv, (float(a), float(b)), float(target))
        yield close("threshold", pattern.threshold_on(length), threshold, 4)
    grid = VideoGrid(1, 1, length)
    plan, _ = pattern.plan(q, k, (), StepContext(grid))
    product = 1 + q.shape[-1] / 2
    gaps = np.asarray(tile_gaps(q, k, plan.mask))
    yield close("gaps", gaps, vectors["tile_gap"], 2 * product)
    kept = gaps >= np.log(threshold)
    yield same("kept by the kernel", kept, vectors["keep_kernel"])
    torch = gaps > np.log(threshold)
    torch[:, :, -1] |= length % block_q != 0  # its padding counts as queries
    yield same("kept by the torch rule", torch, vectors["keep_torch"])
    yield same("skipped", (~kept).sum(), vectors["kernel_skipped"])
    roundings = softmax_roundings(vectors["q"], vectors["k"])
    for name in ("xla", "reference"):
        out = sparse_attention(q, k, v, grid=grid, pattern=pattern, implementation=name)
        yield close(f"out, {name}", jnp.moveaxis(out, 2, 1), vectors["out_kernel"], roundings)


def _ranges(row):
    """Blocks of a list [2 n, first, last, ...] and those that open a range, bool [blocks] each."""
    listed, opens = np.zeros((2, len(row) - 1), bool)
    for at in range(1, 1 + row[0], 2):
        listed[row[at + 1] : row[at] + 1] = True
        opens[row[at]] = True
    return listed, opens


def lite_attention(vectors):
    """Lists before each step and out; [step, head, ...] with one v for all steps.

    The files are a derivation, not the authors' output: a short block of queries votes there, too.
    """
    steps, heads, length, _ = vectors["q"].shape
    pattern = LiteAttention(
        float(vectors["threshold_log2"]),
        int(vectors["block_q"]),
        int(vectors["block_k"]),
        short_votes=True,
    )
    grid = VideoGrid(1, 1, length)
    state = pattern.init(grid, batch=1, num_heads=heads, head_dim=vectors["q"].shape[-1])
    v = jnp.swapaxes(jnp.asarray(vectors["v"], np.float32), 0, 1)[None]
    for step in range(steps):
        q, k = (jnp.swapaxes(jnp.asarray(vectors[x][step], np.float32), 0, 1)[None] for x in "qk")
        blocks = state.listed.shape[-1]
        found = [_ranges(row) for row in vectors["read_list"][step].reshape(-1, blocks + 1)]
        want = np.stack(found).reshape(*state.listed.shape[1:3], 2, blocks)
        yield same(f"computed at step {step}", state.listed[0], vectors["tiles_computed"][step])
        yield same(f"ranges at step {step}", state.opens[0], want[:, :, 1])
        done = attend(pattern, q, k, v, state, StepContext(grid))
        state, roundings = done.state, softmax_roundings(vectors["q"][step], vectors["k"][step])
        out = jnp.swapaxes(done.out[0], 0, 1)
        yield close(f"out at step {step}", out, vectors["out"][step], roundings)


FAMILIES = {"skip_softmax_": skip_softmax, "derived_liteattention_": lite_attention}
