"""Dense: every pair. The baseline, and Sparse-vDiT's mode M0 (arXiv 2506.03065)."""

import dataclasses

from sparsevdit_jax.pattern import AttentionPlan, BlockSparsePattern


@dataclasses.dataclass(frozen=True)
class Dense(BlockSparsePattern):
    """Exact attention at every step; density 1."""

    def init(self, grid, *, batch, num_heads, head_dim):
        """No state."""
        del grid, batch, num_heads, head_dim
        return ()

    def plan(self, q, k, state, ctx):
        """Everything, through `dense_attention`."""
        del q, k, ctx
        return AttentionPlan(None, full=True), state

    def update(self, q, k, lse, state, ctx):
        """Nothing to remember."""
        del q, k, lse, ctx
        return state
