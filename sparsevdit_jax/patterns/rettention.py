"""Rettention: a narrow window whose outputs are scaled and shifted to what a full step gave (arXiv 2505.22918)."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from pallas_kernels import BlockMask
from pallas_kernels._pytree import pytree
from pallas_kernels._values import flag, share, whole
from sparsevdit_jax.context import StepContext
from sparsevdit_jax.grid import VideoGrid
from sparsevdit_jax.masks.blocks import with_text
from sparsevdit_jax.masks.frame_bands import fitted_block
from sparsevdit_jax.method import Method
from sparsevdit_jax.ops import attend_dense, density
from sparsevdit_jax.pattern import Attended, AttentionPattern, AttentionPlan
from sparsevdit_jax.schedule import Phase, StepSchedule
from sparsevdit_jax.token_order import TokenOrder

SITE_MAJOR = (1, 2, 0)
_DTYPES = ("float32", "bfloat16")


@pytree
class RettentionState:
    """What the last full step left, for each batch row (so CFG rows never mix) and head.

    Attributes:
      ratio: f32 [B, H, L], share of a query's softmax that the window held, and what has been added since.
      residual: [B, H, L, D], output of full attention less ratio times that of the window.
    """

    ratio: Float32[Array, "B H L"]
    residual: Float[Array, "B H L D"]


@dataclasses.dataclass(frozen=True)
class Rettention(AttentionPattern):
    """Each token sees the sites next to its own in every frame; full steps correct what that leaves out.

    A searching step (`StepSchedule.search_steps`; the authors: every fifth) attends in full. It also runs the
    window and keeps, for each query, ratio = mass of the window / mass of all keys, and residual = full -
    ratio * window. A step between gives ratio * window + residual, with the window of that step's q, k, v,
    and then adds `growth` to the ratio. At the searching step itself the two are equal.

    The authors' code takes the residual after the output projection, here it is taken before. That is the
    same, because the projection is affine, P(x) = A x + b: with R' = P(full) - P(ratio * window), where b
    cancels, P(ratio' * window') + R' = A (ratio' * window' + full - ratio * window) + b, which is P of
    ratio' * window' + residual. So b is added once.

    Text sees and is seen by all; for its rows, too, the ratio grows beyond 1. A site's window counts places
    in the flattened frame and is cut at its ends.

    Follows cccrrrccc/Re-ttention bbec1f5. Differs: tokens are cut into blocks in site-major order, and a
    block that holds one pair of the window is kept whole. The ratio is that of the blocks, so that the
    identity above holds; blocks of one token for each frame give the code's window.

    State for CogVideoX 2B at 480p (30 heads, 17,776 tokens, 2 CFG rows): 4 MB of ratios and 273 MB of
    residual per layer, half of that with ``residual_dtype="bfloat16"``. Before any search ratio is 1 and
    residual 0, so that a step is attention to the window.

    Attributes:
      density: sites that a token sees / sites of a frame; at least its own.
      window: the authors' number in place of it: sites ``|i - j| <= window // 2``; None: by `density`.
      growth: what a sparse step adds to the ratio.
      limit: the ratio never passes 1, which the code does not see to.
      residual_dtype: "float32" or "bfloat16".
      block: tokens in a block.
    """

    density: float = 0.031
    window: int | None = None
    growth: float = 0.04
    limit: bool = False
    residual_dtype: str = "float32"
    block: int = 128

    takes_density = True
    searches_densely = True

    def __post_init__(self):
        checked: dict = dict(
            density=share("density", self.density, remedy="sites that a token sees / all sites"),
            growth=share("growth", self.growth, zero=True),
            limit=flag("limit", self.limit),
            block=whole("block", self.block, 1, remedy="it counts tokens"),
        )
        if self.window is not None:
            checked["window"] = whole("window", self.window, remedy="it counts sites")
        if self.residual_dtype not in _DTYPES:
            raise ValueError(f"residual_dtype={self.residual_dtype!r} must be one of {_DTYPES}")
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @property
    def searches(self) -> bool:
        """True: its searching steps are the full ones."""
        return True

    def with_density(self, density):
        """This pattern with a window of another share of the sites."""
        return dataclasses.replace(self, density=density, window=None)

    def token_order(self, grid):
        """Site-major order: the frames of a site are neighbours."""
        return TokenOrder(grid, self.block, axes=SITE_MAJOR)

    def init(self, grid, *, batch, num_heads, head_dim):
        """Ratio 1 and residual 0."""
        rows = (batch, num_heads, grid.num_tokens)
        residual = jnp.zeros((*rows, head_dim), jnp.dtype(self.residual_dtype))
        return RettentionState(jnp.ones(rows, np.float32), residual)

    def plan(self, q, k, state, ctx):
        """The window."""
        del q, k
        return AttentionPlan(self.mask(ctx), self.token_order(ctx.grid)), state

    def compute(self, q, k, v, state, ctx):
        """Full in a dense or searching step, else the window's output scaled and shifted."""
        if ctx.phase is Phase.DENSE:
            return Attended(*attend_dense(q, k, v, ctx), state)
        plan, _ = self.plan(q, k, state, ctx)
        window, lse = plan.attend(q, k, v, ctx)
        if ctx.phase is not Phase.REUSE:
            full, full_lse = attend_dense(q, k, v, ctx)
            some = jnp.isfinite(lse)  # padded text sees nothing
            ratio = jnp.where(some, jnp.exp(jnp.where(some, lse - full_lse, 0)), 0)
            residual = full.astype(np.float32) - _scaled(window, ratio)
            residual = residual.swapaxes(1, 2).astype(state.residual.dtype)
            left = jax.lax.stop_gradient(RettentionState(ratio, residual))
            return Attended(full, full_lse, left)
        out = _scaled(window, state.ratio) + state.residual.swapaxes(1, 2).astype(np.float32)
        ratio = state.ratio + np.float32(self.growth)
        if self.limit:
            ratio = jnp.minimum(ratio, 1)
        after = RettentionState(ratio, state.residual)
        return Attended(out.astype(q.dtype), None, after)

    def density_on(self, grid, num_heads, *, state=None, step=0, text_lengths=None):
        """The window's."""
        del state
        ctx = StepContext(grid, Phase.REUSE, step, text_lengths)
        kept = density(self.mask(ctx), self.token_order(grid), None, ctx)
        return np.broadcast_to(kept, num_heads).copy()

    def mask(self, ctx: StepContext) -> BlockMask:
        """The window's blocks; in numpy unless the step has a traced density."""
        if ctx.density is None:
            return _known_mask(self, ctx.grid)
        widest = self if ctx.room is None else self.with_density(ctx.room)
        order = self.token_order(ctx.grid)
        counts = _known_mask(widest, ctx.grid).kv_counts[..., : order.num_video_blocks]
        keep = self.keep_blocks(ctx.grid, _reach(ctx.grid, ctx.density))
        capacity = max(1, min(int(counts.max()), order.num_blocks - 1))
        return BlockMask.from_dense(
            keep, block_q=self.block, block_kv=self.block, capacity=capacity
        )

    def keep_blocks(self, grid: VideoGrid, reach):
        """Block pairs with two sites at most `reach` apart, bool [N, N], text last; traced where `reach` is."""
        order = self.token_order(grid)
        begin = np.arange(order.num_video_blocks) * self.block
        end = np.minimum(begin + self.block, grid.num_video_tokens) - 1
        first, last = (x // grid.frames for x in (begin, end))
        apart = np.maximum(first[:, None] - last[None], first[None] - last[:, None])
        return with_text(apart.astype(np.float32) <= reach, order)


def _scaled(out, ratio):
    """Out [B, L, H, D] times ratio [B, H, L], in float32."""
    return out.astype(np.float32) * ratio.swapaxes(1, 2)[..., None]


def _reach(grid, density):
    """Sites on each side of a window that holds `density` of a frame's sites."""
    sites = density * (grid.height * grid.width)
    return (jnp if isinstance(density, jax.Array) else np).floor(sites / 2)


@functools.lru_cache(maxsize=64)
def _known_mask(pattern: Rettention, grid: VideoGrid) -> BlockMask:
    window = pattern.window
    reach = _reach(grid, pattern.density) if window is None else window // 2
    keep = pattern.keep_blocks(grid, reach)
    return BlockMask.from_dense(keep, block_q=pattern.block, block_kv=pattern.block)


def _schedule(dense_share):
    """Dense at first, then full in every fifth step."""

    def schedule(num_steps):
        dense = math.floor(dense_share * num_steps)
        return StepSchedule(num_steps, dense, tuple(range(dense, num_steps, 5)))

    return schedule


METHODS = (
    Method(
        name="re-ttention",
        title="Re-ttention",
        source="arXiv 2505.22918; cccrrrccc/Re-ttention bbec1f5, window of 96.9 % sparsity. Wan, which it does not "
        "have, as CogVideoX",
        pattern=lambda grid, num_heads, layer: Rettention(block=fitted_block(grid)),
        schedule=_schedule(0.3),
        models={"hunyuanvideo": dict(schedule=_schedule(0.2))},
    ),
)
