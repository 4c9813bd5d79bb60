"""The interface of a pattern. Read this first.

A pattern says how the heads of a layer attend. Only `engine.attend` calls it. The engine checks the
arrays, brings whole sequences of some heads to each device, and calls `AttentionPattern.compute`
there. So a pattern never sees a device.

Most patterns are a softmax over chosen blocks. They say *which* blocks (`plan`), and `compute` is
written here, once. A `StaticPattern` chooses by position alone: it gives a token order and a keep
matrix. A pattern is a frozen, hashable dataclass that holds no arrays. Whatever changes between
steps is a value that `init` makes and the engine returns.
"""

import dataclasses
import functools
from typing import Any, ClassVar

import jax
import numpy as np
from jaxtyping import Array, Float, Float32

from pallas_kernels import BlockMask
from pallas_kernels._pytree import pytree
from sparsevdit_jax import ops
from sparsevdit_jax.context import StepContext
from sparsevdit_jax.grid import VideoGrid
from sparsevdit_jax.plan import AttentionPlan
from sparsevdit_jax.schedule import Phase
from sparsevdit_jax.token_order import TokenOrder

Heads = tuple[int, ...]
_DRAWN = 8  # head_dim of random q and k, of which an online pattern's density is counted


@pytree
class Attended:
    """The results of attention in one layer.

    Attributes:
      out: dtype of q, raster order; zero for text beyond its length.
      lse: natural log-sum-exp of the scaled kept logits, -inf where nothing is kept; None if the
        pattern is not a softmax.
      state: the pattern's new state.
      side: a second branch that the model combines with `out` by learned weights
        (VSA's coarse attention, SLA's linear attention); None from most patterns.
    """

    out: Float[Array, "B L H D"]
    lse: Float32[Array, "B H L"] | None
    state: Any
    side: Float[Array, "B L H D"] | None = None


class AttentionPattern:
    """How one layer attends. A pattern is frozen and hashable; its state is a value beside it.

    A state is a tree of arrays [B, H, ...]. All heads and rows share an array with fewer than two axes.
    A pattern overrides `plan`. If it is not a softmax over blocks, it overrides `compute`.
    """

    sees_dense_steps: ClassVar[bool] = False
    """Whether it is called in Phase.DENSE too; the engine runs the others as dense attention."""
    is_dense: ClassVar[bool] = False
    """Whether it keeps every pair at every step."""
    searches_densely: ClassVar[bool] = False
    """Whether every searching step attends to everything, not the first alone."""
    is_static: ClassVar[bool] = False
    """Whether it depends on positions alone: `StaticPattern`."""

    @property
    def members(self) -> tuple["AttentionPattern", ...]:
        """The patterns that it mixes; none by default."""
        return ()

    @property
    def takes_density(self) -> bool:
        """Whether its number of blocks follows `StepContext.density` (a field `density`), or a member's."""
        return any(p.takes_density for p in self.members)

    @property
    def in_ring(self) -> bool:
        """Whether it also runs where heads are fewer than devices: it plans without looking at q or k, or
        looks only through `ops`, on arrays whose tokens are sharded. By default, if all members do."""
        return bool(self.members) and all(p.in_ring for p in self.members)

    @property
    def num_steps(self) -> int | None:
        """Steps of the run that it, or a member, was made for; None: any."""
        steps = {p.num_steps for p in self.members} - {None}
        if len(steps) > 1:
            raise ValueError(f"{self} mixes patterns of {steps} steps; give one number")
        return steps.pop() if steps else None

    @property
    def searches(self) -> bool:
        """Whether it chooses blocks from q and k in the searching phases."""
        return any(p.searches for p in self.members)

    @property
    def has_side(self) -> bool:
        """Whether it gives a side branch, which a model must combine with `out`."""
        own = type(self).side is not AttentionPattern.side
        return own or any(p.has_side for p in self.members)

    def init(self, grid: VideoGrid, *, batch: int, num_heads: int, head_dim: int) -> Any:
        """State before the first step. Its tree structure, shapes and dtypes never change.

        A pattern that does not fit the grid or the heads is refused here. The default has no state.
        """
        del grid, batch, num_heads, head_dim
        return ()

    def prepare(self, q, k, v, state, ctx: StepContext) -> Any:
        """State for `plan`, where that follows from v, which it does not see; never called in
        Phase.DENSE. The default looks at nothing.
        """
        del q, k, v, ctx
        return state

    def plan(self, q, k, state, ctx: StepContext) -> tuple[AttentionPlan, Any]:
        """(plan, state): the block pairs that this step computes; never called in Phase.DENSE.

        q and k are whole sequences [B, L, H, D] in raster order, of the heads that are on this device
        (`ctx.heads`). Let no gradient through the choice: `jax.lax.stop_gradient` on scores.
        """
        del q, k, state, ctx
        raise ValueError(f"{self} chooses no blocks, so it has no plan and no density")

    def update(self, q, k, lse, state, ctx: StepContext) -> Any:
        """State after the launch, whose lse is f32 [B, H, L] in raster order; called in Phase.DENSE
        only where the pattern `sees_dense_steps`. The default remembers nothing.
        """
        del q, k, lse, ctx
        return state

    def side(self, q, k, v, plan: AttentionPlan, ctx: StepContext) -> jax.Array | None:
        """The side branch [B, L, H, D]; None: there is none. A dense step, whose plan keeps everything,
        has it only where the pattern `sees_dense_steps`.
        """
        del q, k, v, plan, ctx
        return None

    def compute(self, q, k, v, state, ctx: StepContext) -> Attended:
        """Attention of the heads on this device; `engine.attend` calls it.

        q, k, v are whole sequences [B, L, H, D] in raster order. In Phase.DENSE attention is dense.
        Text beyond ``ctx.text_lengths`` changes nothing, and its rows are zero.
        """
        if ctx.phase is Phase.DENSE:
            out, lse = ops.attend_dense(q, k, v, ctx)
            seen = self.update(q, k, lse, state, ctx) if self.sees_dense_steps else state
            side = self.side(q, k, v, AttentionPlan.everything(ctx.grid), ctx)
            return Attended(out, lse, seen, side)
        plan, state = self.plan(q, k, self.prepare(q, k, v, state, ctx), ctx)
        out, lse = plan.attend(q, k, v, ctx)
        side = self.side(q, k, v, plan, ctx)
        return Attended(out, lse, self.update(q, k, lse, state, ctx), side)

    def parts(
        self, grid: VideoGrid, num_heads: int
    ) -> tuple[tuple["AttentionPattern", Heads], ...] | None:
        """The patterns of a composite and the heads that each serves; its state is a tuple of theirs.
        None: it serves all heads itself.
        """
        del grid, num_heads
        return None

    def at_step(self, step: int, num_heads: int) -> tuple["AttentionPattern", ...]:
        """The pattern that each head uses at a step: what a composite consists of."""
        del step
        return (self,) * num_heads

    def head_work(self, state, ctx: StepContext, num_heads: int) -> Any:
        """Work of each head, [H], or of each step and head, [steps, H], concrete or traced. The engine
        assigns heads to devices by it. None: equal.
        """
        del state, ctx, num_heads
        return None

    def with_density(self, density: float) -> "AttentionPattern":
        """This pattern with another budget where it has one (`takes_density`), else itself."""
        return dataclasses.replace(self, density=density) if self.takes_density else self  # pyrefly: ignore

    def density_on(
        self, grid: VideoGrid, num_heads: int, *, state=None, step: int = 0, text_lengths=None
    ) -> np.ndarray:
        """Kept / all pairs of real tokens for each head, text included, batch mean: f32 [num_heads].

        Without a state it is what the settings say. The default counts a plan. For an online pattern it
        counts the plan of random q and k. That is right for a rule that keeps a number of blocks, and
        only an example for a rule that keeps a share of the mass.
        """
        ctx = StepContext(grid, Phase.REUSE, step, text_lengths)
        if isinstance(self, StaticPattern):
            plan = self.static_plan(grid, num_heads)
        else:
            batch = 1 if ctx.text_lengths is None else len(ctx.text_lengths)
            shape = (2, batch, grid.num_tokens, num_heads, _DRAWN)
            q, k = jax.random.normal(jax.random.key(0), shape, np.float32)
            if state is None:
                state = self.init(grid, batch=batch, num_heads=num_heads, head_dim=_DRAWN)
            plan, _ = self.plan(q, k, state, ctx)
        density = ops.density(plan.mask, plan.q_order, plan.kv_order, ctx)
        return np.broadcast_to(density, num_heads).copy()

    def token_order(self, grid: VideoGrid) -> TokenOrder | None:
        """Block order of its masks; None unless all heads and steps share one."""
        del grid
        return None

    def block_on(self, grid: VideoGrid) -> int:
        """Tokens in a block; 0 if its blocks differ."""
        order = self.token_order(grid)
        return 0 if order is None else order.block

    @property
    def serves_any_head(self) -> bool:
        """Whether it can be given to any number of heads: it names none."""
        return True


class StaticPattern(AttentionPattern):
    """A pattern that depends on positions alone: no state, one mask for a grid.

    It gives `token_order`, and `keep_blocks` in that order.
    """

    in_ring = True
    is_static = True

    def keep_blocks(self, grid: VideoGrid, num_heads: int) -> np.ndarray:
        """Block pairs to compute, bool [H|1, N, N] (numpy), text blocks last."""
        raise NotImplementedError

    def static_plan(self, grid: VideoGrid, num_heads: int) -> AttentionPlan:
        """The plan of all heads, in numpy; its mask is built once for equal arguments."""
        return AttentionPlan(_static_mask(self, grid, num_heads), self.token_order(grid))

    def block_mask(self, grid: VideoGrid, num_heads: int, text_lengths=None) -> BlockMask:
        """The mask in this pattern's block order, heads [H|1], with the lengths of its blocks."""
        plan = self.static_plan(grid, num_heads)
        ctx = StepContext(grid, text_lengths=text_lengths)
        return ops.with_lengths(plan.mask, plan.q_order, plan.kv_order, ctx)

    def init(self, grid, *, batch, num_heads, head_dim):
        """No state. Builds the mask, so that a pattern that does not fit is refused here."""
        del batch, head_dim
        self.static_plan(grid, num_heads)
        return ()

    def plan(self, q, k, state, ctx):
        """The pattern's mask, of the heads that are here."""
        del k
        plan = self.static_plan(ctx.grid, ctx.num_heads(q))
        mask = jax.tree.map(ctx.local_heads, plan.mask)
        return dataclasses.replace(plan, mask=mask), state

    def head_work(self, state, ctx, num_heads):
        """Blocks that each head keeps, where masks differ."""
        del state
        counts = self.static_plan(ctx.grid, num_heads).mask.kv_counts
        return counts.sum((0, 2)) if counts.shape[1] > 1 else None


@functools.lru_cache(maxsize=64)
def _static_mask(pattern: StaticPattern, grid: VideoGrid, num_heads: int) -> BlockMask:
    order, keep = pattern.token_order(grid), pattern.keep_blocks(grid, num_heads)
    if order is None:
        raise ValueError(f"{type(pattern).__name__} must give the token_order of its keep_blocks")
    expected = (order.num_blocks, order.num_blocks)
    if keep.ndim != 3 or keep.shape[0] not in (1, num_heads) or keep.shape[1:] != expected:
        raise ValueError(
            f"{type(pattern).__name__}.keep_blocks gave {keep.shape} for {num_heads} heads; "
            f"it must be [heads or 1, {order.num_blocks}, {order.num_blocks}] for {grid}"
        )
    return BlockMask.from_dense(keep, block_q=order.block, block_kv=order.block)
