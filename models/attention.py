"""Where models attend: what a layer attends by, as one value."""

from typing import Any

import jax

from pallas_kernels._pytree import pytree, static
from sparsevdit_jax import Attended, AttentionPattern, StepContext, attend


@pytree
class LayerAttention:
    """What one layer attends by in one step; `models.stack.layer_attentions` makes one for each layer.

    Attributes:
      pattern: any pattern of `sparsevdit_jax`.
      state: the pattern's.
      ctx: what the step is for.
    """

    pattern: AttentionPattern = static()
    state: Any
    ctx: StepContext

    def attend(self, q: jax.Array, k: jax.Array, v: jax.Array) -> Attended:
        """Attention of q to k and v [B, L, H, D], in the order of the context's grid and after RoPE."""
        return attend(self.pattern, q, k, v, self.state, self.ctx)
