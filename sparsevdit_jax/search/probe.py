"""Probe: a pattern that measures inside a model what other patterns would do to its heads.

    attention = SparseAttention.uniform(Probe(candidates), num_layers, schedule)
    ... denoise as with any other attention; after each step:
    measurements.add(prompt, step, states)

The model needs no change: the measurements come back as the layers' states.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels._pytree import pytree
from sparsevdit_jax.ops import attend_dense
from sparsevdit_jax.parallel.ulysses import mean_over_rows
from sparsevdit_jax.pattern import Attended, AttentionPattern
from sparsevdit_jax.search.rules import SparseVditRule


@pytree
class ProbeState:
    """What a `Probe` measured in the last step that was not of Phase.DENSE.

    Attributes:
      error: f32 [B, H, C], mean squared difference between the head's output under each candidate
        and its dense output, over tokens and channels.
      power: f32 [B, H], mean square of the dense output: the error of leaving the head out.
      choice: int32 [B, H], the candidate whose output the model goes on with, the same in all rows;
        -1: the dense output.
      inner: the candidates' own states.
    """

    error: jax.Array
    power: jax.Array
    choice: jax.Array
    inner: tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Probe(AttentionPattern):
    """Runs dense attention and every candidate on the same q, k, v, and keeps the errors in its state.

    Without a rule the model goes on with the dense output, as in STA's mask search (arXiv
    2502.04507, Algorithm 1). With a rule, each head goes on with the candidate that the rule chooses
    from the errors of all batch rows: Sparse-vDiT's sequential feed (arXiv 2506.03065, section 3).
    Padded text rows are zero on both sides and count as tokens without error.

    A step costs a dense pass and one launch for each candidate. Candidates that search online
    (`AdaSpa`) search here in the schedule's searching steps. In the first search their output is
    dense, so their error is 0 there and must not count (`Measurements` leaves such steps out).

    Attributes:
      candidates: patterns that serve any head: no windows per head, no `Table`.
      rule: chooses the output that the model goes on with; None: the dense one.
    """

    candidates: tuple[AttentionPattern, ...]
    rule: SparseVditRule | None = None

    def __post_init__(self):
        object.__setattr__(self, "candidates", tuple(self.candidates))
        if not self.candidates:
            raise ValueError("candidates=() leaves nothing to measure; name one pattern at least")
        if twice := [p for p in self.candidates if self.candidates.count(p) > 1]:
            raise ValueError(f"candidates holds {twice[0]} twice; name each once")
        for pattern in self.candidates:
            if not isinstance(pattern, AttentionPattern) or not pattern.serves_any_head:
                raise ValueError(
                    f"candidates holds {pattern!r}; its members must be patterns that serve any head"
                )
        if self.rule is not None and len(self.rule.costs) != len(self.candidates):
            raise ValueError(
                f"the rule has {len(self.rule.costs)} costs for {len(self.candidates)} candidates; "
                "give one each"
            )

    @property
    def members(self) -> tuple[AttentionPattern, ...]:
        """The candidates."""
        return self.candidates

    def init(self, grid, *, batch, num_heads, head_dim):
        """Zeros, and the candidates' own states."""
        sizes = dict(batch=batch, num_heads=num_heads, head_dim=head_dim)
        return ProbeState(
            jnp.zeros((batch, num_heads, len(self.candidates)), np.float32),
            jnp.zeros((batch, num_heads), np.float32),
            jnp.full((batch, num_heads), -1, np.int32),
            tuple(p.init(grid, **sizes) for p in self.candidates),
        )

    def compute(self, q, k, v, state, ctx):
        """See `AttentionPattern.compute`; the state is new in every step that is not dense."""
        exact, lse = attend_dense(q, k, v, ctx)
        reference, found = exact.astype(np.float32), []
        for pattern, own in zip(self.candidates, state.inner, strict=True):
            found.append(pattern.compute(q, k, v, own, ctx))
        errors = [_mean_square(x.out.astype(np.float32) - reference) for x in found]
        error, power = jnp.stack(errors, -1), _mean_square(reference)
        fed, choice = exact, jnp.full(q.shape[2:3], -1, np.int32)
        if self.rule is not None:
            choice = jnp.asarray(
                self.rule.choose(mean_over_rows(error).swapaxes(0, 1), mean_over_rows(power))
            )
            for i, x in enumerate(found):
                chosen = choice == i
                fed = jnp.where(chosen[None, None, :, None], x.out, fed)
                lse = jnp.where(chosen[None, :, None], x.lse, lse)
        inner = tuple(x.state for x in found)
        choice = jnp.broadcast_to(choice, power.shape)
        return Attended(fed, lse, ProbeState(error, power, choice, inner))


def _mean_square(x):
    """Mean of squares over tokens and channels of [B, L, H, D]: [B, H]."""
    return jnp.square(x).mean((1, 3))
