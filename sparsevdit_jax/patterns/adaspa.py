"""AdaSpa: online search of the blocks with the most mass (arXiv 2502.21079; no public code)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels import BlockMask
from pallas_kernels._pytree import pytree
from pallas_kernels._values import flag, share, whole
from sparsevdit_jax.launch import attend_dense, attention_mass
from sparsevdit_jax.parallel import per_head
from sparsevdit_jax.pattern import AttentionPlan, BlockSparsePattern, with_lengths
from sparsevdit_jax.schedule import Phase, StepContext
from sparsevdit_jax.search import select
from sparsevdit_jax.token_order import TokenOrder


@pytree
class AdaSpaState:
    """What AdaSpa carries from step to step, for each batch row (so CFG rows never mix) and head.

    Attributes:
      lse: f32 [B, H, L], the log-sum-exp under which `mask` was chosen, in raster order: that of
        the step that searched first, or without the cache that of the step that searched last.
      mask: the blocks chosen last, int32 lists [B, H, N, S]; full before any search, so that a
        REUSE step is exact.
      searched: bool scalar, whether `lse` and `mask` have been written.
    """

    lse: jax.Array
    mask: BlockMask
    searched: jax.Array


@dataclasses.dataclass(frozen=True)
class AdaSpa(BlockSparsePattern):
    """Each video block row keeps its blocks of greatest mass, found by an online search.

    The first SEARCH step is fused: its output is exact, its LSE is cached and its block masses give
    the mask. A later SEARCH step takes the masses of its own q and k under the cached LSE, and is
    sparse itself. Without `lse_cache` it first takes its own LSE, and its mask is that of an exact
    search: one more pass over all of q and k (a whole exact attention where XLA or the kernel
    cannot leave the product with v out).

    A dense step leaves the state as it is: before the first search it does not count as one, and
    after it (`StepSchedule.dense_last_steps`) the blocks stay those chosen last.

    Every video row of a head keeps the same number of blocks. Text blocks are kept always, as rows
    and as columns. Use `StepSchedule.adaspa`.

    Differs from the paper where it is silent: heads trade blocks in pairs
    (`search.select.head_levels`), counts are rounded half up, a block is text or video but never
    both, and recall is kept mass / total mass.

    State for Wan 14B at 720p (40 heads, 75,600 tokens, 2 CFG rows, block 128, density 0.2): 24 MB
    of LSE and up to 33 MB of indices per layer with head_adaptive (capacity 1.5 x the base count).

    Attributes:
      density: blocks that a video row keeps / blocks there are, before heads trade; counted over
        video blocks, or over all when `text_in_budget`. At least one video block is kept.
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

    def video_counts(self, grid) -> tuple[int, int, int]:
        """Video blocks that a video row keeps in heads that give, neither, and that receive."""
        order = self.token_order(grid)
        video, text = order.num_video_blocks, order.num_text_blocks
        count = select.block_budget(self.density, video)
        if self.text_in_budget:
            count = min(max(select.round_half_up(self.density * order.num_blocks) - text, 1), video)
        return select.head_adaptive_counts(count, video) if self.head_adaptive else (count,) * 3

    def init(self, grid, *, batch, num_heads, head_dim):
        """State before any search: everything kept."""
        del head_dim
        order = self.token_order(grid)
        rows, capacity = (batch, num_heads, order.num_blocks), self._capacity(order)
        mask = BlockMask(
            jnp.zeros((*rows, capacity), np.int32),
            jnp.full(rows, order.num_blocks, np.int32),
            block_q=self.block,
            block_kv=self.block,
            num_kv_blocks=order.num_blocks,
        )
        lse = jnp.zeros((batch, num_heads, grid.num_tokens), np.float32)
        return _with_its_heads(AdaSpaState(lse, mask, jnp.zeros((), bool)))

    def plan(self, q, k, state, ctx):
        """The mask in the state; a SEARCH step renews it, or is exact if no LSE is cached."""
        order, exact = self.token_order(ctx.grid), None
        if ctx.phase is Phase.SEARCH:
            exact = ~state.searched
            state = jax.lax.cond(
                state.searched, lambda: self._search_again(q, k, state, ctx), lambda: state
            )
        mask = with_lengths(state.mask, order, ctx.grid, ctx.text_lengths)
        return AttentionPlan(mask, order, exact), state

    def update(self, q, k, lse, state, ctx):
        """After the first SEARCH: its LSE and the mask that its masses give."""
        if ctx.phase is not Phase.SEARCH:
            return state
        state = jax.lax.cond(
            state.searched,
            lambda: state,
            lambda: AdaSpaState(lse, self.search(q, k, lse, ctx), jnp.ones((), bool)),
        )
        return _with_its_heads(state)

    def search(self, q, k, lse, ctx: StepContext) -> BlockMask:
        """The mask of these q, k [B, L, H, D] under `lse` f32 [B, H, L], all in raster order."""
        order = self.token_order(ctx.grid)
        q, k, lse = (jax.lax.stop_gradient(x) for x in (q, k, lse))
        mass = attention_mass(q, k, lse, order, ctx)
        return self.choose(mass, order)

    def _search_again(self, q, k, state, ctx):
        lse = state.lse if self.lse_cache else attend_dense(q, k, k, ctx)[1]
        return dataclasses.replace(state, lse=lse, mask=self.search(q, k, lse, ctx))

    def choose(self, mass, order: TokenOrder) -> BlockMask:
        """Block masses f32 [B, H, N, N] -> the lists of every row, [B, H, N, S]."""
        video, text, total = order.num_video_blocks, order.num_text_blocks, order.num_blocks
        low, base, high = self.video_counts(order.grid)
        # Text columns win every row: they take the first `text` ranks and lie outside the count.
        scores = mass[:, :, :video].at[..., video:].set(jnp.inf)
        ranked = select.rank_blocks(scores, self._capacity(order))
        counts = jnp.full(mass.shape[:2], base, np.int32)
        if self.head_adaptive:
            kept = jnp.take_along_axis(mass[:, :, :video], ranked[..., : base + text], axis=-1)
            kept = kept.sum((-1, -2)) + mass[:, :, video:].sum((-1, -2))
            recall = kept / jnp.maximum(mass.sum((-1, -2)), np.finfo(np.float32).tiny)
            levels = select.head_levels(recall, self.recall_threshold)
            counts = jnp.asarray([low, base, high], np.int32)[levels + 1]
        counts = jnp.broadcast_to(counts[..., None] + text, scores.shape[:-1])
        listed = select.list_ranked(ranked, counts, total)
        indices = jnp.where(listed == total, 0, listed)
        rows = ((0, 0), (0, 0), (0, text))
        return BlockMask(
            jnp.pad(indices, (*rows, (0, 0))),
            jnp.pad(counts, rows, constant_values=total),
            block_q=self.block,
            block_kv=self.block,
            num_kv_blocks=total,
        )

    def _capacity(self, order):
        return self.video_counts(order.grid)[2] + order.num_text_blocks


def _with_its_heads(state: AdaSpaState) -> AdaSpaState:
    """Under a mesh, each head's LSE and lists where the head attends."""
    return jax.tree.map(per_head, state)
