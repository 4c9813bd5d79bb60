"""Where models attend: what a layer attends by, as one value."""

from typing import Any

import jax

from pallas_kernels._pytree import pytree, static
from sparsevdit_jax import AttentionPattern, StepContext


@pytree
class Attended:
    """What a layer's pattern gave.

    Attributes:
      out: the attention, [B, L, H, D] as q.
      side: of a pattern with a side branch, its output, [B, L, H, D]; else None.
      state: the pattern's, for the next step.
    """

    out: jax.Array
    side: jax.Array | None
    state: Any


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
        out, state = self.pattern.attend(q, k, v, self.state, self.ctx)
        return Attended(out, None, state)
