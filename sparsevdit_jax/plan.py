"""AttentionPlan: which block pairs one launch computes, and the launch."""

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels import BlockMask
from pallas_kernels._pytree import pytree, static
from sparsevdit_jax import ops
from sparsevdit_jax.centroids import attend_left_out
from sparsevdit_jax.context import StepContext
from sparsevdit_jax.grid import VideoGrid
from sparsevdit_jax.merge import merge_by_lse
from sparsevdit_jax.token_order import TokenOrder
from sparsevdit_jax.token_permutation import TokenPermutation


@pytree
class AttentionPlan:
    """Which block pairs one launch computes.

    Attributes:
      mask: the block pairs, in block order. Blocks of queries and of keys may differ in size and in
        number. A mask without lengths takes those of its orders. A full NumPy mask runs as dense
        attention (unless a TokenPermutation orders it, which may leave tokens out), and an empty
        one costs nothing.
      q_order: block order of the queries; TokenPermutation has one for each head or row. None: raster.
      kv_order: block order of the keys and values; None: `q_order`.
      compensated: blocks that are not kept enter the softmax all the same, each as one key: its
        mean (`centroids`). Otherwise they are dropped.
      skip_below: kept blocks whose weights turn out tiny are skipped, as the option of
        `pallas_kernels.block_sparse_attention` says. None: none is.
    """

    mask: BlockMask
    q_order: TokenOrder | TokenPermutation | None = None
    kv_order: TokenOrder | TokenPermutation | None = None
    compensated: bool = static(default=False)
    skip_below: float | None = static(default=None)

    @classmethod
    def everything(cls, grid: VideoGrid) -> "AttentionPlan":
        """Dense attention: one block, full."""
        block = grid.num_tokens
        return cls(BlockMask.full(1, 1, block_q=block, block_kv=block))

    @classmethod
    def nothing(cls, grid: VideoGrid) -> "AttentionPlan":
        """Attention to no key: out 0, lse -inf."""
        none, block = np.zeros((1, 1), bool), grid.num_tokens
        return cls(BlockMask.from_dense(none, block_q=block, block_kv=block))

    def attend(self, q, k, v, ctx: StepContext) -> tuple[jax.Array, jax.Array]:
        """(out [B, L, H, D], lse f32 [B, H, L]) of raster-order q, k, v, in raster order."""
        permuted = any(isinstance(o, TokenPermutation) for o in (self.q_order, self.kv_order))
        if self.mask.is_full and not permuted and self.skip_below is None:
            return ops.attend_dense(q, k, v, ctx)
        blocks = q, k, v, self.mask, self.q_order, self.kv_order, ctx
        if self.mask.is_empty:
            batch, length, heads, _ = q.shape
            kept = jnp.zeros_like(q), jnp.full((batch, heads, length), -jnp.inf, np.float32)
        else:
            kept = ops.attend_blocks(*blocks, skip_below=self.skip_below)
        if not self.compensated:
            return kept
        out, lse = merge_by_lse([kept, attend_left_out(*blocks)])
        return out.astype(q.dtype), lse
