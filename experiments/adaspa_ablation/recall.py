"""Measures the attention mass that each method keeps, against the share of pairs that it computes."""

import functools
import itertools
from collections.abc import Iterator

import jax
import numpy as np

from experiments.adaspa_ablation import mask_scores
from experiments.adaspa_ablation.trace import TraceConfig
from experiments.layer_inputs import layer_inputs
from experiments.progress import progress_bar
from experiments.tiny_runs import SHIFT
from models.pipelines import Tiny
from models.tiny import TinyVideoDiT
from sparsevdit_jax import StepContext, TokenOrder, VideoGrid
from sparsevdit_jax.ops import attend_dense, attention_mass
from sparsevdit_jax.pattern import StaticPattern
from sparsevdit_jax.patterns import AdaSpa, Diagonal, MultiDiagonal, SlidingTile, VerticalStripe

DENSITIES = (0.05, 0.1, 0.15, 0.2, 0.3, 0.5)
TILE = (4, 4, 4)
STATIC = {
    "diagonal": Diagonal,
    "multi-diagonal": MultiDiagonal,
    "stripe": VerticalStripe,
}

Scores = dict[tuple[str, float], tuple[np.ndarray, np.ndarray]]
"""(method, asked density) -> density and recall of every head [H]."""


@functools.partial(jax.jit, static_argnames="orders")
def _masses(q, k, ctx, *, orders):
    _, lse = attend_dense(q, k, k, ctx)
    return tuple(attention_mass(q, k, lse, order, ctx) for order in orders)


@jax.jit
def _probabilities(q, k):
    logits = (q.astype(np.float32) @ k.astype(np.float32).T) * (q.shape[-1] ** -0.5)
    return jax.nn.softmax(logits, axis=-1)


def windows_of(grid: VideoGrid, density: float) -> list[tuple[int, int, int]]:
    """STA's windows, odd or full along each axis, of the greatest video density up to `density` (5 % over allowed)."""
    tiles = SlidingTile(TILE, (1, 1, 1)).token_order(grid).tiles
    sizes = [[*range(1, n, 2), n] for n in tiles]
    share = {w: float(np.prod(w) / np.prod(tiles)) for w in itertools.product(*sizes)}
    allowed = [s for s in share.values() if s <= 1.05 * density]
    return [w for w, s in share.items() if allowed and s == max(allowed)]


def score_layer(first, second, grid: VideoGrid, densities: tuple[float, ...], block: int) -> Scores:
    """Every method's density and recall on the inputs `second` (q, k, v) of a layer.

    What a method learns earlier (AdaSpa's old masks, STA's windows) it learns on `first`.
    """
    raster, tiles = TokenOrder(grid, block), SlidingTile(TILE, (1, 1, 1)).token_order(grid)
    sites = MultiDiagonal(block=block).token_order(grid)
    orders, ctx = (raster, tiles, sites), StepContext(grid)
    old, new = (
        dict(zip(orders, map(np.asarray, _masses(q, k, ctx, orders=orders)), strict=True))
        for q, k, _ in (first, second)
    )
    scores: Scores = {}

    def add(method, asked, keep, order):
        share, kept = mask_scores.density(keep, order), mask_scores.recall(keep, new[order])
        scores[method, asked] = np.broadcast_to(share, kept.shape).mean(0), kept.mean(0)

    for asked in densities:
        for label, adaptive in (("AdaSpa", True), ("AdaSpa, equal heads", False)):
            pattern = AdaSpa(asked, block, head_adaptive=adaptive)
            add(label, asked, mask_scores.adaspa_masks(new[raster], raster, pattern), raster)
            stale = mask_scores.adaspa_masks(old[raster], raster, pattern)
            add(f"{label}, first search's masks", asked, stale, raster)
        for label, cls in STATIC.items():
            keep = static_keep(cls(density=asked, block=block), grid, new[raster].shape[1])
            if keep is not None:
                add(label, asked, keep, cls(density=asked, block=block).token_order(grid))
        if windows := windows_of(grid, asked):
            add("STA", asked, _best_windows(windows, grid, old[tiles]), tiles)
        count = max(1, round(asked * raster.num_blocks))
        add("best rows of blocks", asked, mask_scores.largest_in_rows(new[raster], count), raster)
        for label, order in (("raster", raster), ("tile", tiles), ("site", sites)):
            best = mask_scores.largest_blocks(new[order], order, asked)
            add(f"best blocks, {label} order", asked, best, order)
    for asked, kept in zip(densities, _elements(second, densities), strict=True):
        scores["best single entries", asked] = np.full_like(kept, asked), kept
    return scores


def static_keep(pattern: StaticPattern, grid: VideoGrid, heads: int) -> np.ndarray | None:
    """Bool [1, H|1, N, N]; None where the density is too small for the pattern (a stripe keeps the first frame)."""
    try:
        return np.asarray(pattern.block_mask(grid, heads).to_dense())
    except ValueError:
        return None


def _best_windows(windows, grid: VideoGrid, mass: np.ndarray) -> np.ndarray:
    """The mask of the window that keeps most of each head's mass, over all clips: bool [1, H, N, N]."""
    keeps = np.concatenate([static_keep(SlidingTile(TILE, w), grid, 1)[:, 0] for w in windows])
    kept = np.stack([mask_scores.recall(keep, mass).mean(0) for keep in keeps])
    return keeps[kept.argmax(0)][None]


def _elements(qkv, densities) -> np.ndarray:
    """Recall of the best single entries, [densities, H]."""
    q, k, _ = qkv
    batch, _, heads, _ = q.shape
    kept = np.zeros((batch, heads, len(densities)))
    for b, h in np.ndindex(batch, heads):
        p = np.asarray(_probabilities(q[b, :, h], k[b, :, h]))
        kept[b, h] = mask_scores.element_recall(p, list(densities))
    return kept.mean(0).T


def recall_rows(
    model: TinyVideoDiT, config: TraceConfig, x: np.ndarray, densities=DENSITIES
) -> Iterator[dict]:
    """One line of the records for each method.

    Args:
      x: the clips before each of the two search steps, f32 [2, clips, F, Y, X, C].
    """
    times = Tiny(model.config, SHIFT).set_timesteps(config.steps).timesteps
    grid = model.grid(x.shape[1:])
    first, second = (
        layer_inputs(model, clips, float(times[step]), config.clip_digits)
        for clips, step in zip(x, config.search_steps, strict=True)
    )
    layers: list[Scores] = []
    with progress_bar("recall against density", total=len(first)) as advance:
        for old, new in zip(first, second, strict=True):
            layers.append(score_layer(old, new, grid, densities, config.block))
            advance()
    for method in dict.fromkeys(method for method, _ in layers[0]):
        asked = [d for d in densities if (method, d) in layers[0]]
        share, kept = (
            np.stack([[scores[method, d][i] for scores in layers] for d in asked]) for i in (0, 1)
        )
        yield dict(
            method=method,
            asked_density=asked,
            density_mean=rounded(share.mean((1, 2))),
            recall_mean=rounded(kept.mean((1, 2))),
            density_by_layer_and_head=rounded(share),
            recall_by_layer_and_head=rounded(kept),
        )


def rounded(values: np.ndarray) -> list:
    """Nested lists with four decimals: what a record can hold."""
    return np.round(np.asarray(values, np.float64), 4).tolist()
