"""Dense: every pair. The baseline, and Sparse-vDiT's mode M0 (arXiv 2506.03065)."""

import dataclasses

from sparsevdit_jax.pattern import AttentionPlan, StaticPattern


@dataclasses.dataclass(frozen=True)
class Dense(StaticPattern):
    """Dense attention at every step; density 1."""

    is_dense = True

    def static_plan(self, grid, num_heads):
        """Everything, through `dense_attention`."""
        del num_heads
        return AttentionPlan.everything(grid)
