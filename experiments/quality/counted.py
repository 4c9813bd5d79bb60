"""Counted: a pattern that also counts what it computes, for methods whose number of blocks q and k decide."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from sparsevdit_jax import AttentionPattern, Phase, SparseAttention, StepContext, ops


@dataclasses.dataclass(frozen=True)
class Counted(AttentionPattern):
    """`pattern`, whose state also holds the density of its last step: f32 [B, H], 1 before any.

    Attributes:
      pattern: chooses blocks anew in every step, by `plan`.
    """

    pattern: AttentionPattern

    sees_dense_steps = True

    @property
    def members(self):
        """The pattern."""
        return (self.pattern,)

    def with_density(self, density):
        """Around the pattern with this density."""
        return Counted(self.pattern.with_density(density))

    def init(self, grid, *, batch, num_heads, head_dim):
        """(the pattern's state, densities)."""
        own = self.pattern.init(grid, batch=batch, num_heads=num_heads, head_dim=head_dim)
        return own, jnp.ones((batch, num_heads), np.float32)

    def compute(self, q, k, v, state, ctx: StepContext):
        """The pattern's own result, and the density of its plan."""
        own, _ = state
        shape, density = (q.shape[0], q.shape[2]), jnp.float32(1)
        if ctx.phase is not Phase.DENSE:
            plan, _ = self.pattern.plan(q, k, own, ctx)  # compiled once with the one in `compute`
            mask = ops.with_lengths(plan.mask, plan.q_order, plan.kv_order, ctx)
            density = mask.density(per_head=True)[None] * _shares(mask, ctx)
        done = self.pattern.compute(q, k, v, own, ctx)
        density = jnp.broadcast_to(density, shape).astype(np.float32)
        return dataclasses.replace(done, state=(done.state, density))

    def density_on(self, grid, num_heads, *, state=None, step=0, text_lengths=None):
        """What was counted last; without a state, the pattern's own example."""
        if state is None:
            more = dict(step=step, text_lengths=text_lengths)
            return self.pattern.density_on(grid, num_heads, **more)
        return np.asarray(state[1]).mean(0)


def counted(attention: SparseAttention) -> SparseAttention:
    """`attention` whose online patterns count; others know their density without that."""
    patterns = tuple(Counted(p) if _is_open(p) else p for p in attention.patterns)
    return dataclasses.replace(attention, patterns=patterns)


def _is_open(pattern: AttentionPattern) -> bool:
    """Whether its density is known only from a plan for q and k."""
    own = type(pattern)
    plain = own.density_on is AttentionPattern.density_on and own.plan is not AttentionPattern.plan
    return plain and not pattern.is_static and not pattern.searches


def _shares(mask, ctx):
    """Queries times keys that stand in the plan's orders, of all pairs: below 1 where tokens are left out."""
    pairs = 1.0
    for lengths in (mask.q_lengths, mask.kv_lengths):
        if lengths is not None:
            pairs = pairs * jnp.asarray(lengths).sum(-1).mean(0) / ctx.grid.num_tokens
    return jnp.reshape(jnp.asarray(pairs, np.float32), (1, -1))
