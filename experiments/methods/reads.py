"""Which keys each query reads under a pattern: its block mask, and the same for every pair of tokens."""

import dataclasses
from typing import Any

import jax
import numpy as np
from scipy import ndimage

from pallas_kernels.block_sparse_attention import mosaic_gpu
from sparsevdit_jax import AttentionPattern, AttentionPlan, Phase, StepContext, VideoGrid, ops
from sparsevdit_jax.token_order import gather_indices, slot_positions

GRID = VideoGrid(8, 16, 16, text_len=16)
HEAD_DIM = 64


@dataclasses.dataclass(frozen=True)
class Reads:
    """What one head of a pattern reads.

    Attributes:
      blocks: kept pairs of blocks that hold tokens, bool [Nq, Nk]; None where there is no plan of blocks.
      tokens: bool [L, L], queries first, or float weights that sum to 1 where there is no plan.
      density: kept / all pairs; None where there is no plan.
      block: tokens in a block of queries and of keys; None where there is no plan.
    """

    blocks: np.ndarray | None
    tokens: np.ndarray
    density: float | None = None
    block: tuple[int, int] | None = None

    @property
    def on_hopper(self) -> bool:
        """Whether the kernels for Hopper GPUs have tiles for these blocks."""
        if self.block is None:
            return False
        try:
            mosaic_gpu.configure(HEAD_DIM, *self.block)
        except NotImplementedError:
            return False
        return True


def video_like(grid: VideoGrid, seed: int = 0) -> tuple[np.ndarray, ...]:
    """q, k and v of one head, f32 [1, L, 1, 64]: a smooth scene that moves a column in each frame.

    q and k of tokens that show the same part of the scene are alike, and each has noise of its own.
    """
    rng = np.random.default_rng(seed)
    shape = (*grid.shape, HEAD_DIM)
    scene = ndimage.gaussian_filter(rng.normal(size=shape), (3, 1.5, 1.5, 0), mode="wrap")
    scene = np.stack([np.roll(frame, t, axis=1) for t, frame in enumerate(scene)])
    scene = (scene / scene.std()).reshape(-1, HEAD_DIM)
    text = rng.normal(size=(grid.text_len, HEAD_DIM))
    whole = np.concatenate([text, scene] if grid.text_first else [scene, text])
    q, k = (whole + 0.5 * rng.normal(size=whole.shape) for _ in range(2))
    v = rng.normal(size=whole.shape)
    q, k, v = (x.astype(np.float32)[None, :, None] for x in (q, k, v))
    return q, k, v


def reads(pattern: AttentionPattern, grid: VideoGrid = GRID, seed: int = 0) -> Reads:
    """What one head reads in a step without a search, after one search where the pattern searches."""
    q, k, v = video_like(grid, seed)
    state = pattern.init(grid, batch=1, num_heads=1, head_dim=HEAD_DIM)
    ctx = StepContext(grid, Phase.FIRST_SEARCH if pattern.searches else Phase.REUSE)
    state = pattern.compute(q, k, v, state, ctx).state
    ctx = StepContext(grid, Phase.REUSE)
    if type(pattern).plan is AttentionPattern.plan:
        return Reads(None, _weights(pattern, q, k, state, ctx))
    plan, _ = pattern.plan(q, k, state, ctx)
    return of_plan(plan, ctx)


def of_plan(plan: AttentionPlan, ctx: StepContext) -> Reads:
    """What the first head of a plan reads."""
    kv_order = plan.q_order if plan.kv_order is None else plan.kv_order
    keep = np.asarray(plan.mask.to_dense())[0, 0]
    block = plan.mask.block_q, plan.mask.block_kv
    count = ctx.grid.num_tokens
    rows = _places(plan.q_order, count, own=False) // block[0]
    columns = _places(kv_order, count, own=True)
    columns = np.where(columns < 0, -1, columns // block[1])
    tokens = keep[rows][:, columns] & (columns >= 0)
    density = float(ops.density(plan.mask, plan.q_order, plan.kv_order, ctx)[0])
    blocks = keep[np.unique(rows)][:, np.unique(columns[columns >= 0])]
    return Reads(blocks, tokens, density, block)


def _places(order: Any, count: int, *, own: bool) -> np.ndarray:
    """Slot of each token; with `own` -1 where a slot holds another token, whose result it takes."""
    if order is None:
        return np.arange(count)
    if hasattr(order, "gather"):
        gather, places = np.asarray(order.gather)[0, 0], np.asarray(order.positions)[0, 0]
    else:
        gather, places = gather_indices(order), slot_positions(order)
    held = np.asarray(gather)[places] == np.arange(count)
    return np.where(held, places, -1) if own else np.asarray(places)


def _weights(pattern, q, k, state, ctx) -> np.ndarray:
    """Weights that each query gives to each key, f32 [L, L]: the results for unit vectors as values."""
    compute = jax.jit(lambda v: pattern.compute(q, k, v, state, ctx).out[0, :, 0])
    count = q.shape[1]
    units = np.eye(count, -(-count // HEAD_DIM) * HEAD_DIM, dtype=np.float32)
    parts = [
        np.asarray(compute(part[None, :, None]))
        for part in np.hsplit(units, units.shape[1] // HEAD_DIM)
    ]
    return np.concatenate(parts, axis=1)[:, :count]
