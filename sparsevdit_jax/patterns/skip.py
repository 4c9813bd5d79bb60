"""Skip: the head is left out. Sparse-vDiT's mode M1 (arXiv 2506.03065, section 3)."""

import dataclasses

from sparsevdit_jax.pattern import AttentionPlan, BlockSparsePattern


@dataclasses.dataclass(frozen=True)
class Skip(BlockSparsePattern):
    """Output zero, lse -inf for every token, text too; no work, density 0.

    Steps of Phase.DENSE stay exact.
    """

    def init(self, grid, *, batch, num_heads, head_dim):
        """No state."""
        del grid, batch, num_heads, head_dim
        return ()

    def plan(self, q, k, state, ctx):
        """Nothing."""
        del q, k, ctx
        return AttentionPlan(None, full=False), state

    def update(self, q, k, lse, state, ctx):
        """Nothing to remember."""
        del q, k, lse, ctx
        return state
