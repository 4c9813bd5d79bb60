"""Re-ttention (cccrrrccc): steps of a CogVideoX layer with its projections."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.conformance.check import close, same, softmax_roundings
from sparsevdit_jax import Phase, StepContext, VideoGrid, attend
from sparsevdit_jax.patterns import Rettention
from sparsevdit_jax.presets import METHODS
from sparsevdit_jax.token_order import slot_positions

_KINDS = (Phase.DENSE, Phase.FIRST_SEARCH, Phase.REUSE)


def rettention(vectors):
    """Mask, phase of each step, output after the projection, and the ratio that each step leaves."""
    names = ("text", "frames", "tokens_per_frame", "window", "heads", "first_step")
    text, frames, size, window, heads, first = (int(vectors[x]) for x in names)
    grid = VideoGrid(frames, 1, size, text, text_first=True)
    pattern = Rettention(window=window, block=frames)
    order = pattern.token_order(grid)
    block = slot_positions(order) // order.block
    keep = pattern.keep_blocks(grid, window // 2)
    yield same("mask", keep[block][:, block], vectors["mask"])
    weights = {x: vectors[f"w_{x}"].astype(np.float64) for x in "qkvo"}
    bias = {x: vectors[f"w_{x}b"].astype(np.float64) for x in "qkvo"}
    run = jax.jit(lambda qkv, state, ctx: attend(pattern, *qkv, state, ctx))
    dim = weights["q"].shape[0] // heads
    batch = vectors["x"].shape[1]
    state = pattern.init(grid, batch=batch, num_heads=heads, head_dim=dim)
    steps = max(50, first + len(vectors["x"]))
    phases = METHODS["re-ttention"].of("cogvideox").schedule(steps).phases()
    for number, x in enumerate(vectors["x"]):
        kind = _KINDS[vectors["step_kind"][number]]
        planned = phases[first + number]
        planned = Phase.FIRST_SEARCH if planned is Phase.SEARCH else planned
        yield same(f"kind of step {first + number}", planned.value, kind.value)
        projected = (x @ weights[n].T + bias[n] for n in "qkv")
        qkv = [jnp.asarray(p.reshape(*x.shape[:2], heads, dim), np.float32) for p in projected]
        done = run(qkv, state, StepContext(grid, kind))
        state = done.state
        out = np.asarray(done.out, np.float64).reshape(x.shape) @ weights["o"].T + bias["o"]
        # Two attentions of the last full step, and one of this step.
        q, k = (np.moveaxis(np.asarray(y), 1, 2) for y in qkv[:2])
        roundings = 3 * softmax_roundings(q, k)
        yield close(f"out of step {first + number}", out, vectors["out"][number], roundings)
        want = vectors["ratio_after_step"][number]
        if np.isfinite(want).all() and kind is not Phase.DENSE:
            want = want.reshape(state.ratio.shape)
            yield close(f"ratio after step {first + number}", state.ratio, want, roundings)


FAMILIES = {"rettention_cog": rettention}
