"""The interface of a pattern. Read this first.

A pattern says how the heads of a layer attend. `engine.attend` calls it, and there is no other way
in: the engine checks the arrays, brings whole sequences of a share of the heads to each device, and
calls `AttentionPattern.compute` there. So a pattern never sees a device.

Most patterns are a softmax over chosen blocks. They say *which* blocks (`plan`), and `compute` is
written here, once. A `StaticPattern` chooses by position alone: it gives a token order and a keep
matrix. A pattern is a frozen, hashable dataclass that holds no arrays. Whatever changes between
steps is a value that `init` makes and the engine returns.
"""

import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from pallas_kernels import BlockMask
from pallas_kernels._pytree import pytree
from sparsevdit_jax import ops
from sparsevdit_jax.context import StepContext
from sparsevdit_jax.grid import VideoGrid
from sparsevdit_jax.schedule import Phase
from sparsevdit_jax.token_order import TokenOrder
from sparsevdit_jax.token_permutation import TokenPermutation

Heads = tuple[int, ...]
_DRAWN = 8  # head_dim of random q and k, of which an online pattern's density is counted


@pytree
class AttentionPlan:
    """Which block pairs one launch computes.

    Attributes:
      mask: the block pairs, in block order. Blocks of queries and of keys may differ in size and in
        number. Without lengths in it, a mask takes those of its orders. A NumPy mask that is full, or
        empty, costs what dense attention costs, or nothing.
      q_order: block order of the queries; TokenPermutation has one for each head or row. None: raster.
      kv_order: block order of the keys and values; None: `q_order`.
    """

    mask: BlockMask
    q_order: TokenOrder | TokenPermutation | None = None
    kv_order: TokenOrder | TokenPermutation | None = None

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
        if self.mask.is_full:
            return ops.attend_dense(q, k, v, ctx)
        if self.mask.is_empty:
            batch, length, heads, _ = q.shape
            return jnp.zeros_like(q), jnp.full((batch, heads, length), -jnp.inf, np.float32)
        return ops.attend_blocks(q, k, v, self.mask, self.q_order, self.kv_order, ctx)


@pytree
class Attended:
    """What attention of one layer gave.

    Attributes:
      out: dtype of q, raster order; zero for text beyond its length.
      lse: natural log-sum-exp of the scaled kept logits, -inf where nothing is kept; None from a
        pattern that is no softmax.
      state: the pattern's new state.
      side: a second branch that the model combines with `out` by learned weights
        (VSA's coarse attention, SLA's linear attention); None from most patterns.
    """

    out: Float[Array, "B L H D"]
    lse: Float32[Array, "B H L"] | None
    state: Any
    side: Float[Array, "B L H D"] | None = None


class AttentionPattern:
    """How one layer attends. Frozen and hashable; state is a value.

    A state is a tree of arrays [B, H, ...]; arrays with fewer than two axes are one for all heads and
    rows. A pattern overrides `plan`, and where it is no softmax over blocks `compute`.
    """

    sees_dense_steps: ClassVar[bool] = False
    """Whether it is called in Phase.DENSE too, where others would only be exact."""
    is_dense: ClassVar[bool] = False
    """Whether it keeps every pair at every step."""
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

    def init(self, grid: VideoGrid, *, batch: int, num_heads: int, head_dim: int) -> Any:
        """State before the first step. Its tree structure, shapes and dtypes never change.

        A pattern that does not fit the grid or the heads is refused here. The default has no state.
        """
        del grid, batch, num_heads, head_dim
        return ()

    def plan(self, q, k, state, ctx: StepContext) -> tuple[AttentionPlan, Any]:
        """(plan, state): the block pairs that this step computes; never called in Phase.DENSE.

        q and k are whole sequences [B, L, H, D] in raster order, of the heads that are on this device
        (`ctx.heads`). Let no gradient through the choice: `jax.lax.stop_gradient` on scores.
        """
        del q, k, state, ctx
        raise ValueError(f"{self} chooses no blocks, so it has no plan and no density")

    def update(self, q, k, lse, state, ctx: StepContext) -> Any:
        """State after the launch, whose lse is f32 [B, H, L] in raster order; never called in
        Phase.DENSE. The default remembers nothing.
        """
        del q, k, lse, ctx
        return state

    def side(self, q, k, v, plan: AttentionPlan, ctx: StepContext) -> jax.Array | None:
        """The side branch [B, L, H, D] of a step that is not dense; None: there is none."""
        del q, k, v, plan, ctx
        return None

    def compute(self, q, k, v, state, ctx: StepContext) -> Attended:
        """Attention of the heads on this device; `engine.attend` calls it.

        q, k, v are whole sequences [B, L, H, D] in raster order. In Phase.DENSE the result is exact.
        Text beyond ``ctx.text_lengths`` changes nothing, and its rows are zero.
        """
        if ctx.phase is Phase.DENSE:
            return Attended(*ops.attend_dense(q, k, v, ctx), state)
        plan, state = self.plan(q, k, state, ctx)
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
        """Work of each head, [H], or of each step and head, [steps, H], concrete or traced: by it
        heads are assigned to devices. None: equal.
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

        Without a state it is what the settings say. The default counts a plan. For an online pattern
        that is the plan of random q and k: exact for a rule that keeps a number of blocks, an
        example for one that keeps a share of the mass.
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
        mask = ops.with_lengths(plan.mask, plan.q_order, plan.kv_order, ctx)
        kept = np.asarray(mask.density(per_head=True), np.float32)
        return np.broadcast_to(kept, num_heads).copy()

    def token_order(self, grid: VideoGrid) -> TokenOrder | None:
        """Block order of its masks; None where there is not one for all heads and steps."""
        del grid
        return None

    def block_on(self, grid: VideoGrid) -> int:
        """Tokens in a block; 0 where there is no one number."""
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
