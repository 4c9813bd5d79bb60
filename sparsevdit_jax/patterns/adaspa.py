"""AdaSpa: online search of the blocks with the most mass (arXiv 2502.21079; no public code)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels import BlockMask
from pallas_kernels._pytree import pytree
from pallas_kernels._values import flag, share, whole
from sparsevdit_jax import selection
from sparsevdit_jax.context import StepContext
from sparsevdit_jax.masks.blocks import with_text
from sparsevdit_jax.ops import attend_dense, attention_mass, with_lengths
from sparsevdit_jax.pattern import AttentionPattern, AttentionPlan
from sparsevdit_jax.schedule import Phase
from sparsevdit_jax.token_order import TokenOrder


@pytree
class AdaSpaState:
    """What AdaSpa carries from step to step, for each batch row (so CFG rows never mix) and head.

    Attributes:
      lse: f32 [B, H, L], the log-sum-exp under which `mask` was chosen, in raster order: that of
        the step that searched first, or without the cache that of the step that searched last.
      mask: the blocks chosen last, int32 lists [B, H, N, S]; full before any search, so that a
        REUSE step is dense.
    """

    lse: jax.Array
    mask: BlockMask


@dataclasses.dataclass(frozen=True)
class AdaSpa(AttentionPattern):
    """Each video block row keeps its blocks of greatest mass, found by an online search.

    The FIRST_SEARCH step is fused: its output is that of dense attention, its LSE is cached, and its
    block masses give the mask. A later SEARCH step is sparse. It takes the masses of its own q and k
    under the cached LSE. Without `lse_cache` it computes its own LSE first, in one more pass over all of
    q and k (a whole dense attention where XLA or the kernel cannot leave out the product with v).

    A dense step does not change the state. The blocks stay those chosen last.

    Every video row of a head keeps the same number of blocks. Text blocks are kept always, as rows
    and as columns. Use `StepSchedule.adaspa`.

    Differs from the paper where it is silent: heads trade blocks in pairs
    (`selection.head_levels`), counts are rounded half up, a block is text or video but never
    both, and recall is kept mass / total mass.

    State for Wan 14B at 720p (40 heads, 75,600 tokens, 2 CFG rows, block 128, density 0.2): 24 MB
    of LSE and up to 33 MB of indices per layer with head_adaptive (capacity 1.5 x the base count).

    Attributes:
      density: blocks that a video row keeps / blocks there are, before heads trade; counted over
        video blocks, or over all when `text_in_budget`. At least one video block is kept. Where a
        schedule gives densities, that of the searching step takes its place.
      block: tokens in a block (64 is the paper's).
      head_adaptive: heads of high recall give half their blocks to as many heads of low recall,
        among the heads that this pattern serves (in a `PerHead`, those of its group).
      recall_threshold: the recall above which a head can give.
      text_in_budget: text blocks count against a row's budget; otherwise they come on top, and the
        density of the whole mask, text included, is higher than `density`.
      lse_cache: later searches use the LSE of the first; False: each takes its own.
    """

    density: float = 0.2
    block: int = 64
    head_adaptive: bool = True
    recall_threshold: float = 0.8
    text_in_budget: bool = False
    lse_cache: bool = True

    takes_density = True
    in_ring = True

    def __post_init__(self):
        checked = dict(
            density=share("density", self.density, remedy="kept blocks / all blocks of a row"),
            block=whole("block", self.block, 1, remedy="it counts tokens"),
            recall_threshold=share("recall_threshold", self.recall_threshold, zero=True),
        )
        for name in ("head_adaptive", "text_in_budget", "lse_cache"):
            checked[name] = flag(name, getattr(self, name))
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def token_order(self, grid) -> TokenOrder:
        """Raster order with text last."""
        return TokenOrder(grid, self.block)

    @property
    def searches(self) -> bool:
        """True."""
        return True

    def video_counts(self, grid, density=None) -> tuple[Any, Any, Any]:
        """Video blocks that a video row keeps in heads that give, neither, and that receive.

        Args:
          grid: the sequence.
          density: in place of the pattern's own; where it is traced, so are the counts.
        """
        density = self.density if density is None else density
        order = self.token_order(grid)
        video, text = order.num_video_blocks, order.num_text_blocks
        if self.text_in_budget:
            count = selection.block_budget(density, order.num_blocks, most=video, less=text)
        else:
            count = selection.block_budget(density, video)
        return selection.head_adaptive_counts(count, video) if self.head_adaptive else (count,) * 3

    def init(self, grid, *, batch, num_heads, head_dim):
        """State before any search: everything kept."""
        del head_dim
        order = self.token_order(grid)
        capacity = self.video_counts(grid)[2] + order.num_text_blocks
        rows = (batch, num_heads, order.num_blocks)
        mask = BlockMask(
            jnp.zeros((*rows, capacity), np.int32),
            jnp.full(rows, order.num_blocks, np.int32),
            block_q=self.block,
            block_kv=self.block,
            num_kv_blocks=order.num_blocks,
        )
        return AdaSpaState(jnp.zeros((batch, num_heads, grid.num_tokens), np.float32), mask)

    def plan(self, q, k, state, ctx):
        """The mask in the state, which a SEARCH step renews; everything in the first search."""
        if ctx.phase is Phase.FIRST_SEARCH:
            return AttentionPlan.everything(ctx.grid), state
        if ctx.phase is Phase.SEARCH:
            lse = state.lse if self.lse_cache else attend_dense(q, k, k, ctx)[1]
            state = AdaSpaState(lse, self.search(q, k, lse, ctx))
        return AttentionPlan(state.mask, self.token_order(ctx.grid)), state

    def update(self, q, k, lse, state, ctx):
        """After the first search: its LSE and the mask that its masses give."""
        if ctx.phase is not Phase.FIRST_SEARCH:
            return state
        return AdaSpaState(lse, self.search(q, k, lse, ctx))

    def head_work(self, state, ctx, num_heads):
        """Blocks that each head keeps in a step without a search."""
        del num_heads
        return state.mask.kv_counts.sum((0, 2)) if ctx.phase is Phase.REUSE else None

    def density_on(self, grid, num_heads, *, state=None, step=0, text_lengths=None):
        """After any search, before heads trade; with a state that of its mask."""
        del step
        order = self.token_order(grid)
        if state is None:
            video, (_, base, _) = order.num_video_blocks, self.video_counts(grid)
            keep = np.broadcast_to(np.arange(video) < base, (video, video))
            keep = with_text(keep, order)[None]
            mask = BlockMask.from_dense(keep, block_q=self.block, block_kv=self.block)
        else:
            mask = state.mask
        ctx = StepContext(grid, text_lengths=text_lengths)
        kept = with_lengths(mask, order, None, ctx).density(per_head=True)
        return np.broadcast_to(np.asarray(kept, np.float32), num_heads).copy()

    def search(self, q, k, lse, ctx: StepContext) -> BlockMask:
        """The mask of these q, k [B, L, H, D] under `lse` f32 [B, H, L], all in raster order."""
        order = self.token_order(ctx.grid)
        q, k, lse = (jax.lax.stop_gradient(x) for x in (q, k, lse))
        return self.choose(attention_mass(q, k, lse, order, ctx), ctx)

    def choose(self, mass, ctx: StepContext) -> BlockMask:
        """Block masses f32 [B, H, N, N] -> the lists of every row, [B, H, N, S]."""
        order = self.token_order(ctx.grid)
        video, text = order.num_video_blocks, order.num_text_blocks
        low, base, high = self.video_counts(ctx.grid, ctx.density)
        capacity = self.video_counts(ctx.grid, ctx.room)[2] + text
        ranked = selection.rank_with_text(mass, order, capacity)
        counts: Any = base
        if self.head_adaptive:
            most = base + text if isinstance(base, int) else capacity
            best = jnp.take_along_axis(mass[:, :, :video], ranked[..., :most], axis=-1)
            kept = jnp.where(np.arange(most) < base + text, best, 0).sum((-1, -2))
            kept = kept + mass[:, :, video:].sum((-1, -2))
            recall = kept / jnp.maximum(mass.sum((-1, -2)), np.finfo(np.float32).tiny)
            recall = ctx.all_heads(recall)  # heads of all devices trade with one another
            levels = ctx.local_heads(selection.head_levels(recall, self.recall_threshold))
            counts = jnp.asarray([low, base, high], np.int32)[levels + 1]
        return selection.ranked_mask(ranked, counts, order)
