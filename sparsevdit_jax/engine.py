"""The one way into attention: `attend` a pattern, on one device or on all of a mesh.

    attended = attend(pattern, q, k, v, state, ctx)      # attended.out, .state, .lse, .side

Under a mesh an all-to-all exchanges tokens for heads (Ulysses). Then the pattern sees whole sequences
of its heads, and a second all-to-all leads back. With fewer heads than devices, keys and values
travel instead (ring attention).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pallas_kernels._checks import check_dtype
from sparsevdit_jax.context import StepContext
from sparsevdit_jax.parallel import ulysses
from sparsevdit_jax.parallel.mesh import Shards, current
from sparsevdit_jax.pattern import Attended, AttentionPattern, AttentionPlan
from sparsevdit_jax.schedule import Phase


def attend(
    pattern: AttentionPattern,
    q: Float[Array, "B L H D"],
    k: Float[Array, "B L H D"],
    v: Float[Array, "B L H D"],
    state: Any,
    ctx: StepContext,
) -> Attended:
    """Attention of one layer at one step, as `pattern` computes it.

    Args:
      pattern: how the heads attend.
      q: [B, L, H, D] in raster order, after RoPE; float32, bfloat16 or float16.
      k: as q.
      v: as q.
      state: ``pattern.init(...)``, or the state of the step before.
      ctx: the step.

    Returns:
      `Attended`: out, lse, the new state, and the side branch of patterns that have one.

    Raises:
      ValueError: shapes, dtypes or lengths do not fit the context's grid or the pattern; or there are
        fewer heads than devices, and the pattern needs whole sequences.
    """
    check_inputs(q, k, v, ctx)
    heads = tuple(range(q.shape[2]))
    if ctx.phase is Phase.DENSE and not pattern.sees_dense_steps:
        done = _attend_parts([(_EXACT, heads)], q, k, v, [()], ctx)
        return dataclasses.replace(done, state=state)
    parts = pattern.parts(ctx.grid, len(heads))
    if parts is None:
        done = _attend_parts([(pattern, heads)], q, k, v, [state], ctx)
        return dataclasses.replace(done, state=done.state[0])
    return _attend_parts(parts, q, k, v, state, ctx)


def check_inputs(q, k, v, ctx: StepContext) -> None:
    """ValueError unless q, k, v are one sequence of the context's grid."""
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.ndim != 4 or x.shape != q.shape or x.dtype != q.dtype:
            raise ValueError(
                f"{name} is {x.dtype} {x.shape} and q is {q.dtype} {q.shape}; "
                "q, k and v must be [batch, tokens, heads, head_dim] of one shape and dtype"
            )
        check_dtype(name, x)
    if q.shape[1] != ctx.grid.num_tokens:
        raise ValueError(
            f"q has {q.shape[1]} tokens, but {ctx.grid} has {ctx.grid.num_tokens} "
            f"({ctx.grid.num_video_tokens} of video, {ctx.grid.text_len} of text); pass the grid "
            "of this sequence"
        )
    if ctx.text_lengths is not None and ctx.text_lengths.shape[0] != q.shape[0]:
        raise ValueError(
            f"text_lengths has {ctx.text_lengths.shape[0]} entries, but q has {q.shape[0]} batch "
            "rows; give one length for each row"
        )


class _Exact(AttentionPattern):
    """Dense attention, for every pattern in Phase.DENSE."""

    in_ring = True

    def plan(self, q, k, state, ctx):
        return AttentionPlan.everything(ctx.grid), state


_EXACT = _Exact()


def _attend_parts(parts, q, k, v, states, ctx) -> Attended:
    """Attention of each part's heads; the state is a tuple of the parts' states."""
    shards = current()
    if shards is not None and not shards.uses_ring(q.shape[2]):
        return _exchange(parts, q, k, v, states, ctx, shards)
    if shards is not None:
        _check_ring(parts, q, shards)
    done = [
        pattern.compute(*(_take(x, heads, 2) for x in (q, k, v)), state, ctx)
        for (pattern, heads), state in zip(parts, states, strict=True)
    ]
    attended = _join(done)
    order = np.argsort(np.concatenate([heads for _, heads in parts]))
    return dataclasses.replace(
        attended,
        out=_take(attended.out, order, 2),
        lse=None if attended.lse is None else _take(attended.lse, order, 1),
        side=None if attended.side is None else _take(attended.side, order, 2),
    )


def _exchange(parts, q, k, v, states, ctx, shards: Shards) -> Attended:
    """The same, each device with its share of every part's heads."""
    groups = [heads for _, heads in parts]
    places = [
        ulysses.assign(
            pattern.head_work(state, ctx, len(heads)), len(heads), ctx.step, shards.tokens
        )
        for (pattern, heads), state in zip(parts, states, strict=True)
    ]
    # Lengths are of rows, which devices share. A number that is known while tracing stays known inside: a Table
    # refuses a concrete step that it lacks.
    data: dict[str, Any] = {"text_lengths": ctx.text_lengths}
    for name in ("step", "density"):
        if isinstance(number := getattr(ctx, name), jax.Array):
            data[name] = number

    def on_device(qkv, heads, states, data):
        begin, done = 0, []
        for (pattern, _), mine, place, state in zip(parts, heads, places, states, strict=True):
            end = begin + place.shape[0] // shards.tokens
            here = dataclasses.replace(ctx, **data, heads=mine)
            done.append(pattern.compute(*(x[:, :, begin:end] for x in qkv), state, here))
            begin = end
        attended = _join(done)
        tokens = (attended.out,) if attended.side is None else (attended.out, attended.side)
        return tokens, attended.lse, attended.state

    tokens, lse, states = ulysses.exchange(
        on_device, (q, k, v), states, data, groups=groups, places=places, shards=shards
    )
    return Attended(tokens[0], lse, states, *tokens[1:])


def _check_ring(parts, q, shards):
    for pattern, _ in parts:
        if not pattern.in_ring:
            raise ValueError(
                f"{type(pattern).__name__} chooses blocks from whole sequences, but {q.shape[2]} heads "
                f"on {shards.tokens} devices leave some devices without a head; make the mesh's axis seq "
                f"{q.shape[2]} or smaller"
            )


def _join(done: list[Attended]) -> Attended:
    """Results of parts side by side, in the order of the parts."""
    if len(done) == 1:
        return dataclasses.replace(done[0], state=(done[0].state,))
    lses = [d.lse for d in done if d.lse is not None]
    lse = jnp.concatenate(lses, 1) if len(lses) == len(done) else None
    side = None
    if any(d.side is not None for d in done):
        side = jnp.concatenate(
            [jnp.zeros_like(d.out) if d.side is None else d.side for d in done], 2
        )
    out = jnp.concatenate([d.out for d in done], 2)
    return Attended(out, lse, tuple(d.state for d in done), side)


def _take(x, heads, axis):
    """`x` with these heads along `axis`; itself where they are all, in order."""
    if np.array_equal(heads, np.arange(x.shape[axis])):
        return x
    return jnp.take(x, np.asarray(heads), axis=axis)
