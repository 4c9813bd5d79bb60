"""Which keys does each method read? The picture of README.md: experiments/results/pictures/methods.png.

    python -m experiments.readme_picture            # half a minute on two CPU cores

Four masks of about the same density on the demo's latent grid. The committed TinyVideoDiT gives the attention that
AdaSpa searches, in the middle of a run; the head shown is the one whose mask keeps the most of it. The other masks
depend on positions alone.
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments import command
from experiments.demo.clip_runner import VIDEO, WEIGHTS
from experiments.layer_inputs import layer_inputs
from experiments.record import RESULTS
from models import load_tiny
from sparsevdit_jax import AttentionPattern, Phase, StaticPattern, StepContext, VideoGrid
from sparsevdit_jax.metrics import recall
from sparsevdit_jax.ops import attend_dense
from sparsevdit_jax.patterns import AdaSpa, MultiDiagonal, SlidingTile, VerticalStripe
from sparsevdit_jax.token_order import TokenOrder, slot_positions

METHODS: dict[str, AttentionPattern] = {
    "STA: a window of tiles": SlidingTile((2, 4, 4), (3, 3, 3)),
    "AdaSpa: searched": AdaSpa(0.25),
    "Sparse-vDiT: multi-diagonal": MultiDiagonal(0.25),
    "Sparse-vDiT: stripe": VerticalStripe(0.25),
}
QUERY = (7, 9, 8)
"""Frame, row and column of the token whose keys are shown."""

KEPT, DROPPED, MARK = "#005aa0", "#e9ecf1", "#e69f00"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Flags.

    Attributes:
      path: of the picture.
    """

    path: Path = RESULTS / "pictures" / "methods.png"


def keys_of(keep: np.ndarray, order: TokenOrder, query: tuple[int, int, int]) -> np.ndarray:
    """Which video tokens the token `query` reads under a mask [N, N]: bool [F, Y, X]."""
    grid = order.grid
    video = slice(grid.video_start, grid.video_start + grid.num_video_tokens)
    blocks = (slot_positions(order)[video] // order.block).reshape(grid.shape)
    return keep[blocks[query]][blocks]


def density_of(keep: np.ndarray, order: TokenOrder) -> float:
    """Kept / all pairs of real tokens."""
    tokens = np.asarray(order.lengths(None)).reshape(-1).astype(np.float64)
    return float(tokens @ keep @ tokens / tokens.sum() ** 2)


def mask_of(pattern: AttentionPattern, qkv, grid: VideoGrid) -> tuple[np.ndarray, TokenOrder]:
    """The mask [N, N] of the head that keeps the largest part of its attention, and its block order."""
    order = pattern.token_order(grid)
    if order is None:
        raise ValueError(f"{pattern} has an order for each head; the picture shows one")
    q, k, v = qkv
    heads = q.shape[2]
    if isinstance(pattern, StaticPattern):
        return pattern.block_mask(grid, heads).to_dense()[0, 0], order
    ctx = StepContext(grid, Phase.FIRST_SEARCH)
    state = pattern.init(grid, batch=1, num_heads=heads, head_dim=q.shape[3])
    searched = pattern.compute(q, k, v, state, ctx)
    ctx = dataclasses.replace(ctx, phase=Phase.REUSE)
    sparse = pattern.compute(q, k, v, searched.state, ctx)
    best = int(recall(sparse.lse, attend_dense(q, k, v, ctx)[1])[0].argmax())
    plan, _ = pattern.plan(q, k, searched.state, ctx)
    return np.asarray(plan.mask.to_dense())[0, best], order


def draw(masks: dict[str, tuple[np.ndarray, TokenOrder]], path: Path) -> None:
    """One column for each mask: blocks of queries and keys, and what one query reads in eight frames."""
    from matplotlib import pyplot
    from matplotlib.colors import ListedColormap

    colours = ListedColormap([DROPPED, KEPT])
    figure = pyplot.figure(figsize=(10.4, 4.6))
    columns = figure.add_gridspec(
        1, len(masks), left=0.03, right=0.995, top=0.91, bottom=0.01, wspace=0.07
    )

    def show(cell, image):
        axis = figure.add_subplot(cell)
        axis.imshow(image, cmap=colours, vmin=0, vmax=1, interpolation="nearest")
        axis.set(xticks=[], yticks=[])
        return axis

    for column, (title, (keep, order)) in zip(columns, masks.items(), strict=True):
        upper, lower = column.subgridspec(2, 1, height_ratios=(2.1, 1), hspace=0.13)
        axis = show(upper, keep)
        axis.set_title(f"{title}\ndensity {density_of(keep, order):.2f}", fontsize=10)
        axis.set_xlabel("blocks of keys", fontsize=8)
        if column.get_geometry()[2] == 0:
            axis.set_ylabel("blocks of queries", fontsize=8)
        seen = keys_of(keep, order, QUERY)
        frames = range(QUERY[0] % 2, len(seen), 2)
        cells = lower.subgridspec(2, len(frames) // 2, hspace=0.06, wspace=0.06)
        for cell, frame in zip(cells, frames, strict=True):
            small = show(cell, seen[frame])
            if frame == QUERY[0]:
                small.plot(QUERY[2], QUERY[1], "o", color=MARK, markersize=4)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main(config: Config) -> None:
    """Chooses the masks and draws them."""
    model = load_tiny(WEIGHTS)
    noise = jax.random.normal(jax.random.key(0), (1, *VIDEO, 1), jnp.float32)
    qkv = layer_inputs(model, noise, 0.6, [3])[model.config.num_layers // 2]
    grid = model.grid(noise.shape)
    draw({title: mask_of(p, qkv, grid) for title, p in METHODS.items()}, config.path)
    print(f"wrote {config.path}")


if __name__ == "__main__":
    command.run(main, Config, description=__doc__)
