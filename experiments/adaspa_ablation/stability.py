"""Measures how LSE and chosen blocks change over steps, and what a mask found elsewhere costs."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from experiments.adaspa_ablation import mask_scores
from experiments.adaspa_ablation.recall import rounded
from experiments.adaspa_ablation.trace import TraceConfig
from sparsevdit_jax import TokenOrder, VideoGrid
from sparsevdit_jax.patterns import AdaSpa


def stability_rows(config: TraceConfig, grid: VideoGrid, run: dict) -> Iterator[dict]:
    """The records' lines: `over` steps, the LSE cache, and other rows, heads and layers.

    Args:
      run: of `trace.watched_run`.
    """
    order = TokenOrder(grid, config.block)
    pattern = AdaSpa(config.density, config.block, head_adaptive=False)
    mass = run["mass"]
    keep = np.stack([choose(step, order, pattern) for step in mass])
    yield dict(over="steps", **over_steps(keep, mass, run["lse"], order, config.search_steps))
    first, _ = config.search_steps
    stale = np.stack([choose(step, order, pattern) for step in run["stale"][first:]])
    kept = mask_scores.recall(keep[first:], mass[first:]) - mask_scores.recall(stale, mass[first:])
    same = mask_scores.overlap(keep[first:], stale)
    yield dict(
        over="LSE cache",
        first_step=first + 1,
        recall_loss_by_step=rounded(kept.mean((1, 2, 3))),
        recall_loss_worst_head_by_step=rounded(kept.mean(2).max((1, 2))),
        overlap_by_step=rounded(same.mean((1, 2, 3))),
    )
    for name, (overlap, loss) in contrasts(keep, mass, config, order.num_text_blocks).items():
        yield dict(over="elsewhere", mask_from=name, overlap_ratio=overlap, recall_loss=loss)


def choose(mass: np.ndarray, order: TokenOrder, pattern: AdaSpa) -> np.ndarray:
    """Masks for block masses [layers, B, H, N, N]."""
    flat = mass.reshape(-1, *mass.shape[2:])
    return mask_scores.adaspa_masks(flat, order, pattern).reshape(mass.shape)


def over_steps(keep, mass, lse, order: TokenOrder, search_steps) -> dict[str, Any]:
    """Matrices [s, t], mean over layers, rows and heads, and each head at the two search steps.

    `overlap`: intersection over union of the masks of s and t. `recall_loss`: what the mask of s keeps less of t's
    mass than t's own mask. `lse_shift`: mean |LSE_t - LSE_s|. `lse_uneven`: the root mean square of the same
    difference within the video blocks, their means taken off, which alone changes how the blocks of a row rank.
    """
    steps, layers, batch, heads = lse.shape[:4]
    shape = (steps, layers * batch * heads, -1)
    keep, mass = keep.reshape(shape).swapaxes(0, 1), mass.reshape(shape).swapaxes(0, 1)
    both = keep.astype(np.float32) @ keep.swapaxes(1, 2).astype(np.float32)
    size = keep.sum(-1, dtype=np.float32)
    share = (keep.astype(np.float32) @ mass.swapaxes(1, 2)) / mass.sum(-1)[:, None]
    own = np.einsum("mtt->mt", share)
    result = {
        "overlap": both / (size[:, :, None] + size[:, None] - both),
        "recall_loss": own[:, None] - share,
        "lse_shift": np.empty(both.shape),
        "lse_uneven": np.empty(both.shape),
    }
    order_rows = np.asarray(order.apply(lse.reshape(-1, 1, lse.shape[-1]), axis=2))
    video = order.num_video_blocks * order.block
    if (order.video_lengths != order.block).any():
        raise ValueError(
            f"{order.grid} does not fill its blocks of {order.block}; choose a divisor"
        )
    blocks = order_rows[..., :video].reshape(steps, layers * batch * heads, -1, order.block)
    for s in range(steps):
        moved = blocks - blocks[s]
        result["lse_shift"][:, s] = np.abs(moved).mean((2, 3)).T
        result["lse_uneven"][:, s] = np.sqrt(moved.var(3).mean(2)).T
    first, second = search_steps
    by_head = {
        f"{name}_by_layer_and_head": rounded(
            m[:, first, second].reshape(layers, batch, heads).mean(1)
        )
        for name, m in result.items()
    }
    return {name: rounded(m.mean(0)) for name, m in result.items()} | by_head


def contrasts(keep, mass, config: TraceConfig, num_text: int) -> dict[str, tuple[float, float]]:
    """Where a mask used at the second search comes from -> (overlap with its own, recall lost), means.

    Text blocks, the last `num_text`, are kept by every mask, random ones too.
    """
    first, second = config.search_steps
    seeds, digits = len(config.seeds), len(config.digits)
    now, masses = keep[second], mass[second]
    layers, _, heads, blocks, _ = now.shape
    # Rows are (guidance branch, seed, digit); rolling an axis by one takes another of that kind.
    split = now.reshape(layers, 2, seeds, digits, heads, blocks, blocks)
    shuffled, video = now.copy(), blocks - num_text
    shuffled[..., :video, :video] = np.random.default_rng(0).permuted(
        now[..., :video, :video], axis=-1
    )

    def rolled(*axes):
        return np.roll(split, 1, axes).reshape(now.shape)

    taken = {
        "first search, same row": keep[first],
        "step before, same row": keep[second - 1],
        "other guidance branch": rolled(1),
        "other noise, same class": rolled(2),
        "other class, same noise": rolled(3),
        "other class and noise": rolled(2, 3),
        "other head": rolled(4),
        "other layer": rolled(0),
        "random blocks": shuffled,
    }
    own = mask_scores.recall(now, masses)
    return {
        name: (
            float(mask_scores.overlap(other, now).mean()),
            float((own - mask_scores.recall(other, masses)).mean()),
        )
        for name, other in taken.items()
    }
