"""Finetuning towards dense attention: STA's distillation loss, for any model of this library.

The student runs a sparse pattern in every layer. The teacher is the frozen model with dense attention
(Sliding Tile Attention, arXiv 2502.04507, section "Finetuning STA"). The loss compares the attention
outputs of every layer, too. No model has to change for that: `record` wraps every pattern so that it
keeps its output in its state, and every model returns the states.

    attention = record(SparseAttention.uniform(SlidingTile(...), num_layers))
    out = model(..., attention=attention, states=attention.init(...), ctx=ctx)
    student = Prediction(out.sample, layer_outputs(out.states))
    loss, terms = distillation_loss(student, teacher, target, grid=ctx.grid)
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels._pytree import pytree, static
from sparsevdit_jax.attention import SparseAttention
from sparsevdit_jax.grid import VideoGrid
from sparsevdit_jax.pattern import AttentionPattern


@pytree
class RecordedState:
    """State of a `Recorded` pattern.

    Attributes:
      output: float32 [B, H, L, D], the last attention output of the heads, in raster order and before
        the output projection; zeros before the first step.
      inner: state of the wrapped pattern.
      heads: of the layer, which these are; None: all.
    """

    output: jax.Array
    inner: Any
    heads: tuple[int, ...] | None = static(default=None)


@dataclasses.dataclass(frozen=True)
class Recorded(AttentionPattern):
    """`pattern`, and its last output in the state. Output and inner state are those of `pattern`.

    The copy takes 4 B L H D bytes for each layer: it is float32, because `init` does not know the model's
    dtype and the dtype of a state never changes.

    Attributes:
      pattern: what attends.
      heads: of the layer, those that it serves; None: all.
    """

    pattern: AttentionPattern
    heads: tuple[int, ...] | None = None

    sees_dense_steps = True

    @property
    def members(self) -> tuple[AttentionPattern, ...]:
        """The pattern."""
        return (self.pattern,)

    def with_density(self, density):
        """The same around the pattern with this density."""
        return Recorded(self.pattern.with_density(density), self.heads)

    def at_step(self, step, num_heads):
        """Those of the pattern."""
        return self.pattern.at_step(step, num_heads)

    def parts(self, grid, num_heads):
        """Those of the pattern, each recorded."""
        parts = self.pattern.parts(grid, num_heads)
        return parts and tuple((Recorded(p, heads), heads) for p, heads in parts)

    def init(self, grid, *, batch, num_heads, head_dim):
        """Zeros of the output to come, and the pattern's state."""
        sizes = dict(batch=batch, head_dim=head_dim)
        if parts := self.parts(grid, num_heads):
            return tuple(p.init(grid, num_heads=len(heads), **sizes) for p, heads in parts)
        inner = self.pattern.init(grid, num_heads=num_heads, **sizes)
        shape = (batch, num_heads, grid.num_tokens, head_dim)
        return RecordedState(jnp.zeros(shape, np.float32), inner, self.heads)

    def compute(self, q, k, v, state, ctx):
        """See `AttentionPattern.compute`; gradients flow through the recorded output, too."""
        found = self.pattern.compute(q, k, v, state.inner, ctx)
        output = found.out.astype(np.float32).swapaxes(1, 2)
        return dataclasses.replace(found, state=RecordedState(output, found.state, self.heads))

    def head_work(self, state, ctx, num_heads):
        """Those of the pattern."""
        return self.pattern.head_work(state.inner, ctx, num_heads)


def record(attention: SparseAttention) -> SparseAttention:
    """`attention` with every layer's pattern `Recorded`. Not for JSON: save `attention` itself."""
    return dataclasses.replace(attention, patterns=tuple(map(Recorded, attention.patterns)))


def layer_outputs(states: Sequence[Any]) -> tuple[jax.Array, ...]:
    """Each layer's attention output, float32 [B, L, H, D], from the states of `record`'s attention."""
    return tuple(_output(state).swapaxes(1, 2) for state in states)


def _output(state):
    """Recorded output of all heads of a layer, in order; a tuple holds those of its parts."""
    if isinstance(state, RecordedState):
        return state.output
    heads = np.concatenate([part.heads for part in state])
    outputs = jnp.concatenate([part.output for part in state], 1)
    return jnp.take(outputs, np.argsort(heads), axis=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossWeights:
    """Weights of the terms of `distillation_loss`. The defaults are the paper's alpha, beta and gamma.

    Attributes:
      data: weight of the flow-matching loss of the student.
      final: weight of the distance between the networks' outputs.
      attention: weight of the distance between the layers' attention outputs.
    """

    data: float = 1.0
    final: float = 0.5
    attention: float = 0.5

    def __post_init__(self):
        for name, value in dataclasses.asdict(self).items():
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(
                    f"LossWeights {name}={value} must be finite and at least 0; 0 leaves a term out"
                )


@pytree
class Prediction:
    """What a network returned for one batch.

    Attributes:
      output: the velocity [B, ...], or whatever else the target is of.
      layers: attention output of each layer [B, L, H, D] (`layer_outputs`).
    """

    output: jax.Array
    layers: tuple[jax.Array, ...]


def distillation_loss(
    student: Prediction,
    teacher: Prediction,
    target: jax.Array,
    *,
    grid: VideoGrid,
    text_lengths=None,
    weights: LossWeights | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """L = data L_data + final L_final + attention L_attn (STA, arXiv 2502.04507).

    L_data is ||target - student||², L_final ||student - teacher||² and L_attn the mean over layers of the same
    distance between attention outputs. The paper leaves open whether a norm sums or averages; here it is the
    mean over entries, so that the weights mean the same on any latent grid. No gradient reaches the teacher.

    Args:
      student: with gradients.
      teacher: the dense model on the same noisy input, times and condition; as many layers.
      target: in the shape of the outputs; for flow matching the velocity ``noise - x0``.
      grid: of the layers' sequence.
      text_lengths: real text tokens of each batch row, int32 [B]; rows of padding do not count, neither in
        the sum nor in the number that it is divided by. None: all of the room is text.
      weights: None is the paper's.

    Returns:
      The loss and its terms before weighting, "data", "final" and "attention"; float32 scalars.

    Raises:
      ValueError: shapes or numbers of layers differ, or a layer is not of this grid.
    """
    weights = weights or LossWeights()
    _check(student, teacher, target, grid)
    teacher = jax.lax.stop_gradient(teacher)
    real = _real_tokens(grid, text_lengths)[:, :, None, None]
    pairs = list(zip(student.layers, teacher.layers, strict=True))
    distances = [_layer_distance(ours, theirs, real) for ours, theirs in pairs]
    terms = {
        "data": _mean_square(student.output, target),
        "final": _mean_square(student.output, teacher.output),
        "attention": jnp.stack(distances).mean(),
    }
    loss = sum(getattr(weights, name) * term for name, term in terms.items())
    return jnp.asarray(loss), terms


def _mean_square(a, b):
    return jnp.square(a.astype(np.float32) - b.astype(np.float32)).mean()


def _layer_distance(ours, theirs, real):
    """Mean over the real tokens of the whole batch, their heads and channels."""
    difference = jnp.where(real, ours.astype(np.float32) - theirs.astype(np.float32), 0.0)
    batch, _, heads, channels = ours.shape
    rows = real.sum() * (batch // real.shape[0])  # real has one row where no lengths are given
    return jnp.square(difference).sum() / (rows.astype(np.float32) * (heads * channels))


def _real_tokens(grid: VideoGrid, text_lengths) -> jax.Array:
    """bool [B or 1, L], false for rows of padding."""
    place = np.arange(grid.num_tokens)[None] - grid.text_start
    video = (place < 0) | (place >= grid.text_len)
    if text_lengths is None:
        return jnp.ones(video.shape, bool)
    return jnp.asarray(video) | (place < jnp.asarray(text_lengths)[:, None])


def _check(student, teacher, target, grid):
    if not student.output.shape == teacher.output.shape == target.shape:
        raise ValueError(
            f"student {student.output.shape}, teacher {teacher.output.shape} and target "
            f"{target.shape} must have one shape; give both networks the same input"
        )
    if len(student.layers) != len(teacher.layers) or not student.layers:
        raise ValueError(
            f"the student recorded {len(student.layers)} layers and the teacher "
            f"{len(teacher.layers)}; run both with `record` in every layer"
        )
    for number, (ours, theirs) in enumerate(zip(student.layers, teacher.layers, strict=True)):
        if ours.shape != theirs.shape or ours.shape[1] != grid.num_tokens:
            raise ValueError(
                f"layer {number} has {ours.shape} in the student and {theirs.shape} in the teacher, "
                f"but {grid} has {grid.num_tokens} tokens; run both on this grid"
            )
