"""LiteAttention: key blocks that did not matter in one step are left out of the next (arXiv 2511.11062)."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels import BlockMask, tile_gaps
from pallas_kernels._pytree import pytree
from pallas_kernels._values import flag, whole
from sparsevdit_jax.method import Method
from sparsevdit_jax.ops import with_lengths
from sparsevdit_jax.pattern import AttentionPattern, AttentionPlan
from sparsevdit_jax.token_order import TokenOrder


@pytree
class LiteState:
    """Lists of one layer, for each batch row and head.

    Attributes:
      listed: bool [B, H, M, N], key blocks that the next step computes.
      opens: bool [B, H, M, N], those with which a run of neighbouring listed blocks begins, from the
        last block down. Two runs may touch.
    """

    listed: jax.Array
    opens: jax.Array


@dataclasses.dataclass(frozen=True)
class LiteAttention(AttentionPattern):
    """Each block of queries drops the key blocks whose logits were far below its running maximum one step before.

    A step computes the listed blocks. Its queries walk their lists from the last block to the first. A
    block stays listed if a real query has a logit of more than `threshold` (in base-2 units, negative)
    over its maximum before the block. The first block of a walk always stays. The block that ends a
    run stays for one more step. A dropped block returns only with a new video (`init`). The first step
    lists everything. Dense steps change no list.

    Follows the authors' code (moonmath-ai/LiteAttention), from which a short last block of queries
    never drops anything (inferred: its padding votes to stay). Differs: they vote inside their Hopper
    kernel. Here the vote is a pass of its own over q and k in plain JAX, so that any implementation
    computes the step, but the vote costs about what the product of q and k over the listed blocks
    costs. Text is walked like video, before it, and a short text block of queries drops nothing.

    State: 2 bytes for each block pair of each head and row.

    Attributes:
      threshold: base-2; -10 is the authors' default, -6 SGLang's.
      block_q: queries in a block.
      block_kv: keys in a block.
      short_votes: a short block of queries drops by the votes of its real queries; False: it drops
        nothing.
    """

    threshold: float = -10.0
    block_q: int = 128
    block_kv: int = 128
    short_votes: bool = False

    def __post_init__(self):
        number = isinstance(self.threshold, int | float | np.integer | np.floating)
        if not number or isinstance(self.threshold, bool) or not -math.inf < self.threshold <= 0:
            raise ValueError(
                f"threshold={self.threshold!r} must be a finite number of at most 0, in base-2 logits"
            )
        object.__setattr__(self, "threshold", float(self.threshold))
        for name in ("block_q", "block_kv"):
            value = whole(name, getattr(self, name), 1, remedy="it counts tokens")
            object.__setattr__(self, name, value)
        object.__setattr__(self, "short_votes", flag("short_votes", self.short_votes))

    def orders(self, grid) -> tuple[TokenOrder, TokenOrder]:
        """Orders of queries and keys: raster, with text last."""
        return TokenOrder(grid, self.block_q), TokenOrder(grid, self.block_kv)

    def init(self, grid, *, batch, num_heads, head_dim):
        """Everything listed, in one run."""
        del head_dim
        q_order, kv_order = self.orders(grid)
        shape = batch, num_heads, q_order.num_blocks, kv_order.num_blocks
        last = np.arange(kv_order.num_blocks) == kv_order.num_blocks - 1
        return LiteState(jnp.ones(shape, bool), jnp.broadcast_to(last, shape))

    def plan(self, q, k, state, ctx):
        """What is listed."""
        del q, k
        return AttentionPlan(self._mask(state.listed), *self.orders(ctx.grid)), state

    def update(self, q, k, lse, state, ctx):
        """The lists after a step with these q and k."""
        del lse
        q_order, kv_order = self.orders(ctx.grid)
        mask = with_lengths(self._mask(state.listed), q_order, kv_order, ctx)
        gaps = tile_gaps(
            q_order.apply(q),
            kv_order.apply(k),
            mask,
            scale=ctx.kernel.scale,
            descending=True,
            before=True,
        )
        stays = gaps > np.float32(self.threshold * math.log(2))
        if mask.q_lengths is not None and not self.short_votes:
            stays |= (jnp.asarray(mask.q_lengths) < self.block_q)[..., None] & state.listed
        return next_lists(state, stays)

    def density_on(self, grid, num_heads, *, state=None, step=0, text_lengths=None):
        """Of the state's lists; without one everything."""
        if state is None:
            return np.ones(num_heads, np.float32)
        return super().density_on(
            grid, num_heads, state=state, step=step, text_lengths=text_lengths
        )

    def head_work(self, state, ctx, num_heads):
        """Blocks that each head lists."""
        del ctx, num_heads
        return state.listed.sum((0, 2, 3), dtype=np.int32)

    def _mask(self, listed):
        return BlockMask.from_dense(listed, block_q=self.block_q, block_kv=self.block_kv)


def next_lists(state: LiteState, stays: jax.Array) -> LiteState:
    """The lists after a vote: bool [B, H, M, N], which of the listed blocks stay.

    Runs are walked from the last block down. A block that stays after one that did not, or as the first
    of its run, opens a new run; the first that does not stay closes it, and is listed once more.
    """
    above = jnp.pad(stays[..., 1:], ((0, 0),) * 3 + ((0, 1),))
    open_before = above & ~state.opens
    return LiteState(stays | (state.listed & open_before), stays & ~open_before)


METHODS = (
    Method(
        name="lite-attention",
        title="LiteAttention",
        source="arXiv 2511.11062 and its code: threshold -10, every step but the first by lists",
        pattern=lambda grid, num_heads, layer: LiteAttention(),
    ),
)
