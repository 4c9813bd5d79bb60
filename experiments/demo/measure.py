"""What a method keeps and what it costs, on the queries, keys and values of a real denoising step."""

import dataclasses
import functools
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from experiments.demo.methods import Method
from models.tiny import TinyVideoDiT
from sparsevdit_jax import (
    AttentionPattern,
    Phase,
    SparseAttention,
    StepContext,
    VideoGrid,
    metrics,
)
from sparsevdit_jax.pattern import attend_dense
from sparsevdit_jax.patterns import Dense


@dataclasses.dataclass(frozen=True)
class Tap(AttentionPattern):
    """Dense attention whose state is the q, k, v that it was given: what a layer's heads really see."""

    def init(self, grid, *, batch, num_heads, head_dim):
        """Zeros of the shapes to come."""
        shape = (batch, grid.num_tokens, num_heads, head_dim)
        return tuple(jnp.zeros(shape, jnp.float32) for _ in range(3))

    def attend(self, q, k, v, state, ctx):
        """Exact attention; the state becomes (q, k, v)."""
        del state
        return attend_dense(q, k, v, ctx)[0], tuple(x.astype(jnp.float32) for x in (q, k, v))


@functools.partial(jax.jit, static_argnames="attention")
def _tapped(model, x, t, label, states, ctx, *, attention):
    return model(x, t, label, attention=attention, states=states, ctx=ctx)[1]


def layer_inputs(
    model: TinyVideoDiT, x, t: float, label
) -> list[tuple[jax.Array, jax.Array, jax.Array]]:
    """q, k, v [B, L, H, D] of every layer when `model` denoises x [B, F, Y, X, C] at time t."""
    config, grid = model.config, model.grid(x.shape)
    attention = SparseAttention((Tap(),) * config.num_layers)
    states = attention.init(
        grid, batch=len(x), num_heads=config.num_heads, head_dim=config.head_dim
    )
    ctx = StepContext(grid, Phase.REUSE)
    times = jnp.full((len(x),), t, jnp.float32)
    label = jnp.asarray(label, jnp.int32)
    layers = _tapped(model, x, times, label, states, ctx, attention=attention)
    dtype = model.blocks[0].dtype
    return [tuple(a.astype(dtype) for a in layer) for layer in layers]


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
