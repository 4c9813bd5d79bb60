"""LVSA: a window of frames and anchor frames that move with the steps (arXiv 2605.31057)."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels import BlockMask
from pallas_kernels._values import flag, whole
from sparsevdit_jax.context import StepContext
from sparsevdit_jax.masks.blocks import with_text
from sparsevdit_jax.masks.frame_bands import fitted_block, frame_blocks
from sparsevdit_jax.method import Method
from sparsevdit_jax.ops import density
from sparsevdit_jax.pattern import AttentionPattern, AttentionPlan
from sparsevdit_jax.schedule import Phase
from sparsevdit_jax.token_order import TokenOrder


@dataclasses.dataclass(frozen=True)
class LVSA(AttentionPattern):
    """Every frame sees the frames around it and a set of anchors, for clips longer than a model's own.

    Anchors are the first frames and every `interval`-th frame of the F of the clip, counted from step mod
    `interval` and around the end; so another denoising step has other anchors. The window is shifted
    inwards at the ends of the clip, never cut. Masks are not symmetric.

    The step (`StepContext.step`) may be traced: all steps share one program.

    Follows JiusiServe/LongVideoSparseAttention c72a36b. Differs: text is kept, as rows and columns, and
    frames need not be multiples of blocks: a block on a border of frames keeps what any of its frames
    keeps.

    Attributes:
      window: frames on each side, W; 0: anchors alone.
      first: anchors at the start of the clip.
      reference: frames of the clips that the model was trained on: 21 for Wan 2.1, 33 for HunyuanVideo. The
        automatic interval keeps about as many frames for each query. Clips that are no longer are dense.
      scale: factor on `reference`; below 1 fewer frames are kept.
      interval: frames from one anchor to the next; None: automatic (`interval_on`).
      expand: the window grows, left and right in turn, until it has 2 W + 1 frames that are no anchors, or
        all there are.
      block: tokens in a block.
    """

    window: int = 3
    first: int = 1
    reference: int = 21
    scale: float = 1.0
    interval: int | None = None
    expand: bool = True
    block: int = 128

    in_ring = True

    def __post_init__(self):
        for name, least in (("window", 0), ("first", 0), ("reference", 1), ("block", 1)):
            remedy = "it counts tokens" if name == "block" else "it counts latent frames"
            value = whole(name, getattr(self, name), least, remedy=remedy)
            object.__setattr__(self, name, value)
        if self.interval is not None:
            remedy = "it counts latent frames; None finds one"
            interval = whole("interval", self.interval, 1, remedy=remedy)
            object.__setattr__(self, "interval", interval)
        number = isinstance(self.scale, int | float) and not isinstance(self.scale, bool)
        if not number or not 0 < self.scale < math.inf:
            raise ValueError(f"scale={self.scale!r} must be a number above 0; 1 is the reference")
        object.__setattr__(self, "scale", float(self.scale))
        object.__setattr__(self, "expand", flag("expand", self.expand))

    def token_order(self, grid):
        """Raster order."""
        return TokenOrder(grid, self.block)

    def interval_on(self, frames: int) -> int:
        """Frames from one anchor to the next in a clip of `frames`; 1 is dense.

        Automatic: with a reference of r frames, the largest interval whose anchors still number r less the
        window, but no less than ``ceil((F - m) / (r - m))`` with m = 2 W + first.
        """
        if self.interval is not None:
            return self.interval
        reference = max(self.first + 1, int(self.reference * self.scale))
        if frames <= reference:
            return 1
        wanted = max(self.first, reference - min(2 * self.window + 1, frames))
        intervals = range(frames, 0, -1)
        strict = next((n for n in intervals if len(self._anchors(frames, n, 0)) >= wanted), 1)
        least = 2 * self.window + self.first
        beyond = max(frames, reference) - least
        return max(strict, math.ceil(beyond / max(reference - least, 1)))

    def keep_frames(self, frames: int, step: int) -> np.ndarray:
        """Frame pairs that are kept at a step, bool [F, F], query frames first."""
        interval = self.interval_on(frames)
        anchors = self._anchors(frames, interval, step % interval)
        keep = np.zeros((frames, frames), bool)
        keep[:, anchors] = True
        if not self.window:
            return keep
        width = 2 * self.window + 1
        alone = ~keep[0]  # frames that are no anchors
        for frame, row in enumerate(keep):
            low = max(0, min(frame - self.window, frames - width))
            high = min(frames, max(frame + self.window + 1, width))
            wanted = min(width, alone.sum()) if self.expand else 0
            left = True
            while alone[low:high].sum() < wanted:
                if left:
                    low = max(low - 1, 0)
                else:
                    high = min(high + 1, frames)
                left = not left
            row[low:high] = True
        return keep

    def plan(self, q, k, state, ctx):
        """The blocks of this step's frames."""
        del q, k
        order, grid = self.token_order(ctx.grid), ctx.grid
        frames, capacity = _all_steps(self, grid)
        traced = isinstance(ctx.step, jax.Array)
        table = jnp.asarray(frames) if traced else frames
        keep = frame_blocks(table[ctx.step % len(frames)], grid, self.block)
        keep = with_text(keep, order)
        mask = BlockMask.from_dense(
            keep, block_q=self.block, block_kv=self.block, capacity=capacity
        )
        return AttentionPlan(mask, order), state

    def density_on(self, grid, num_heads, *, state=None, step=0, text_lengths=None):
        """That of the step's frames."""
        ctx = StepContext(grid, Phase.REUSE, step, text_lengths)
        plan, _ = self.plan(None, None, state, ctx)
        kept = density(plan.mask, plan.q_order, None, ctx)
        return np.broadcast_to(kept, num_heads).copy()

    def _anchors(self, frames, interval, offset) -> list[int]:
        count = math.ceil(frames / interval)
        moving = {(offset + i * interval) % frames for i in range(count)}
        return sorted(moving | set(range(min(self.first, frames))))


@functools.lru_cache(maxsize=64)
def _all_steps(pattern: LVSA, grid) -> tuple[np.ndarray, int]:
    """Frame pairs of each step of a round of the anchors, bool [interval, F, F], and the longest list."""
    interval = pattern.interval_on(grid.frames)
    frames = np.stack([pattern.keep_frames(grid.frames, step) for step in range(interval)])
    text = pattern.token_order(grid).num_text_blocks
    longest = 1
    for keep in frames:
        counts = frame_blocks(keep, grid, pattern.block).sum(-1)
        longest = max(longest, int(counts[counts < len(counts)].max(initial=0)) + text)
    return frames, longest


METHODS = (
    Method(
        name="lvsa",
        title="LVSA",
        source="arXiv 2605.31057; JiusiServe/LongVideoSparseAttention c72a36b. Dense up to a model's own length",
        pattern=lambda grid, num_heads, layer: LVSA(block=fitted_block(grid)),
        models={
            "hunyuanvideo": dict(
                pattern=lambda grid, num_heads, layer: LVSA(reference=33, block=fitted_block(grid))
            )
        },
    ),
)
