"""Skip: the head is left out. Sparse-vDiT's mode M1 (arXiv 2506.03065, section 3)."""

import dataclasses

from sparsevdit_jax.pattern import AttentionPlan, StaticPattern


@dataclasses.dataclass(frozen=True)
class Skip(StaticPattern):
    """Output zero, lse -inf for every token, text too; no work, density 0.

    Steps of Phase.DENSE stay dense.
    """

    def static_plan(self, grid, num_heads):
        """Nothing."""
        del num_heads
        return AttentionPlan.nothing(grid)
