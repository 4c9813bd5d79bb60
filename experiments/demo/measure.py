"""What a method keeps and what it costs, on the queries, keys and values of a real denoising step."""

import functools
import statistics
import time

import jax
import numpy as np

from experiments.demo.methods import Method
from sparsevdit_jax import (
    AttentionPattern,
    Phase,
    StepContext,
    VideoGrid,
    metrics,
)
from sparsevdit_jax.patterns import Dense


@functools.partial(jax.jit, static_argnames="pattern")
def _search(q, k, v, state, ctx, *, pattern):
    return pattern.attend(q, k, v, state, ctx)[1]


def searched_state(pattern: AttentionPattern, qkv, grid):
    """The pattern's state after it has chosen its blocks on these inputs."""
    q, _, _ = qkv
    state = pattern.init(grid, batch=q.shape[0], num_heads=q.shape[2], head_dim=q.shape[3])
    return _search(*qkv, state, StepContext(grid, Phase.SEARCH), pattern=pattern)


_measure = jax.jit(metrics.measure, static_argnames="pattern")


def head_quality(pattern: AttentionPattern, qkv, grid) -> dict[str, np.ndarray]:
    """density, recall and output error of each head [H] of a layer with these inputs, batch averaged."""
    state, heads = searched_state(pattern, qkv, grid), qkv[0].shape[2]
    measured = _measure(*qkv, state, StepContext(grid, Phase.REUSE), pattern=pattern)
    result = {name: np.asarray(value, np.float64).mean(0) for name, value in measured.items()}
    kept = metrics.density(pattern, grid, num_heads=heads, state=state)
    return dict(result, density=kept.astype(np.float64))


def attention_times(
    methods: list[Method], layers, grid: VideoGrid, *, repeats: int = 7
) -> dict[str, float]:
    """Milliseconds of one step's attention, all layers, by method key; medians of interleaved runs.

    Reordering is inside the time, and so is everything else that `attend` does in a step that reuses its masks.

    Args:
      methods: what to time; dense has no attention of its own.
      layers: q, k, v [B, L, H, D] of every layer.
      grid: of the sequence.
      repeats: runs of each method.
    """
    ctx, runs = StepContext(grid, Phase.REUSE), {}
    for method in methods:
        patterns = method.attention.patterns if method.attention else (Dense(),) * len(layers)
        pairs = zip(patterns, layers, strict=True)
        states = tuple(searched_state(p, qkv, grid) for p, qkv in pairs)
        runs[method.key] = functools.partial(_attend_all, layers, states, ctx, patterns=patterns)
        jax.block_until_ready(runs[method.key]())
    times: dict[str, list[float]] = {key: [] for key in runs}
    for _ in range(repeats):
        for key, run in runs.items():
            began = time.perf_counter()
            jax.block_until_ready(run())
            times[key].append(1e3 * (time.perf_counter() - began))
    return {key: statistics.median(values) for key, values in times.items()}


@functools.partial(jax.jit, static_argnames="patterns")
def _attend_all(layers, states, ctx, *, patterns):
    triples = zip(patterns, layers, states, strict=True)
    return [pattern.attend(*qkv, state, ctx)[0] for pattern, qkv, state in triples]
