"""Which keys each query reads under a pattern: its block mask, and the same for every pair of tokens."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
from jax.extend.core import Var
from scipy import ndimage

from pallas_kernels.block_sparse_attention import mosaic_gpu
from pallas_kernels.tile_gaps import without_far_tiles
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
    """

    blocks: np.ndarray | None
    tokens: np.ndarray
    density: float | None = None


@dataclasses.dataclass(frozen=True)
class Blocks:
    """The blocks of a pattern's plan.

    Attributes:
      queries: tokens in a block of queries.
      keys: tokens in a block of keys.
      skips: whether blocks of the plan may be skipped while it is computed.
    """

    queries: int
    keys: int
    skips: bool

    @property
    def on_hopper(self) -> bool:
        """Whether the kernels for Hopper GPUs have tiles for them."""
        if self.skips:
            return False
        try:
            mosaic_gpu.configure(HEAD_DIM, self.queries, self.keys)
        except NotImplementedError:
            return False
        return True


def blocks_of(pattern: AttentionPattern, grid: VideoGrid) -> Blocks | None:
    """The blocks of the pattern's plan on a grid, of which nothing is computed; None: it has no plan."""
    if _has_no_plan(pattern):
        return None
    ctx, x = StepContext(grid), jax.ShapeDtypeStruct((1, grid.num_tokens, 1, HEAD_DIM), np.float32)

    def plan(q, k):
        state = pattern.init(grid, batch=1, num_heads=1, head_dim=HEAD_DIM)
        return pattern.plan(q, k, state, ctx)[0]

    found = jax.eval_shape(plan, x, x)
    return Blocks(found.mask.block_q, found.mask.block_kv, found.skip_below is not None)


def _has_no_plan(pattern: AttentionPattern) -> bool:
    return type(pattern).plan is AttentionPattern.plan


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


def reads(pattern: AttentionPattern, grid: VideoGrid = GRID) -> Reads:
    """What one head reads of `video_like`, one step after a first one, which searches where the pattern does."""
    ctx, (q, k, v) = StepContext(grid), video_like(grid)
    jit = (lambda f: f) if pattern.is_static else jax.jit
    state = jit(functools.partial(_first_state, pattern, grid))(q, k, v)
    if _has_no_plan(pattern):
        compute = jit(lambda v: pattern.compute(q, k, v, state, ctx).out[0, :, 0])
        weights = np.concatenate([compute(part) for part in _units(q.shape[1])], axis=1)
        return Reads(None, weights[:, : q.shape[1]])
    return of_plan(jit(lambda q, k: pattern.plan(q, k, state, ctx)[0])(q, k), q, k, ctx)


def is_online(pattern: AttentionPattern, grid: VideoGrid = GRID) -> bool:
    """Whether what it reads depends on q, k or v, and not on positions alone."""
    if _has_no_plan(pattern):
        return True
    ctx, skips = StepContext(grid), []

    def plan(q, k, v):
        state = _first_state(pattern, grid, q, k, v)
        found = pattern.plan(q, k, state, ctx)[0]
        skips.append(found.skip_below is not None)
        return found

    x = jax.ShapeDtypeStruct((1, grid.num_tokens, 1, HEAD_DIM), np.float32)
    traced = jax.make_jaxpr(plan)(x, x, x).jaxpr
    needed = set(_variables(traced.outvars))
    for equation in reversed(traced.eqns):
        if needed.intersection(equation.outvars):
            needed.update(_variables(equation.invars))
    return any(skips) or not needed.isdisjoint(traced.invars)


def _variables(atoms) -> list[Var]:
    return [atom for atom in atoms if isinstance(atom, Var)]


def _first_state(pattern, grid, q, k, v):
    """The state that a first step leaves."""
    state = pattern.init(grid, batch=1, num_heads=1, head_dim=HEAD_DIM)
    if not jax.tree.leaves(state):
        return state
    phase = Phase.FIRST_SEARCH if pattern.searches else Phase.REUSE
    return pattern.compute(q, k, v, state, StepContext(grid, phase)).state


def of_plan(plan: AttentionPlan, q, k, ctx: StepContext) -> Reads:
    """What the first head of a plan for q and k [B, L, H, D] reads, without the blocks that it skips."""
    q_order = plan.q_order
    kv_order = q_order if plan.kv_order is None else plan.kv_order
    mask = plan.mask
    if plan.skip_below is not None:
        mask = ops.with_lengths(mask, q_order, kv_order, ctx)
        q, k = (x if o is None else o.apply(x) for x, o in ((q, q_order), (k, kv_order)))
        mask = without_far_tiles(q, k, mask, plan.skip_below, HEAD_DIM**-0.5)
    keep = np.asarray(mask.to_dense())[0, 0]
    block = mask.block_q, mask.block_kv
    count = ctx.grid.num_tokens
    rows = _places(q_order, count, own=False) // block[0]
    columns = _places(kv_order, count, own=True)
    columns = np.where(columns < 0, -1, columns // block[1])
    tokens = keep[rows][:, columns] & (columns >= 0)
    density = float(ops.density(mask, q_order, kv_order, ctx)[0])
    blocks = keep[np.unique(rows)][:, np.unique(columns[columns >= 0])]
    return Reads(blocks, tokens, density)


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


def _units(count: int) -> list[np.ndarray]:
    """Unit vectors as values: the results for them are the weights that queries give to keys."""
    parts = -(-count // HEAD_DIM)
    units = np.eye(count, parts * HEAD_DIM, dtype=np.float32)
    return [part[None, :, None] for part in np.hsplit(units, parts)]
