"""SSTA: sliding tiles joined with the tiles of best score (HunyuanVideo 1.5; arXiv 2511.18870)."""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from pallas_kernels._values import flag, share, whole, wholes
from sparsevdit_jax.block_rules import keep_top, video_mask
from sparsevdit_jax.masks.blocks import axis_window
from sparsevdit_jax.method import Method
from sparsevdit_jax.pooled import PooledPattern
from sparsevdit_jax.token_order import TokenOrder, check_tile

_SAMPLINGS = ("importance", "similarity")


@dataclasses.dataclass(frozen=True)
class SSTA(PooledPattern):
    """Each tile reads the tiles of an STA window around it, and the `topk` tiles of best score.

    Scores are of mean queries and mean keys. "importance" weighs how like a key tile is to the query
    tile against how like it is to the other key tiles: ``weight (cos(q, k) + 1) / 2 - (1 - weight)
    mean over the others of (cos(k, k') + 1) / 2``. "similarity" is q . k, and a tile at the border
    counts for as much of a mean as it has tokens of a tile, because the authors divide by all its
    places. Text is kept, as rows and as columns.

    Follows Tencent's HunyuanVideo-1.5 (`ssta_attention.py`). Differs: the authors pad a ragged latent grid
    with zero keys and the text's last block with copies of its last token, and both take weight in
    the softmax. Here padding has none. The blocks that are kept are the same.

    Attributes:
      tile: frames, rows, columns of a tile, in tokens.
      window: frames, rows, columns of the window, in tiles; an even one keeps one more than it says.
      topk: tiles of best score that a row keeps, some of which the window has too. The authors halve
        their 64 for clips of up to 31 latent frames.
      sampling: "importance" or "similarity".
      weight: of likeness to the query tile, in "importance" (lambda).
      share_heads: one choice for all heads of the layer, by means over the heads.
    """

    tile: tuple[int, int, int] = (6, 8, 8)
    window: tuple[int, int, int] = (3, 3, 3)
    topk: int = 64
    sampling: str = "importance"
    weight: float = 0.7
    share_heads: bool = False

    takes_density = False

    def __post_init__(self):
        if self.sampling not in _SAMPLINGS:
            raise ValueError(f"sampling={self.sampling!r} must be one of {_SAMPLINGS}")
        remedy = "give frames, rows and columns in tiles"
        checked: dict[str, Any] = dict(
            tile=check_tile(self.tile),
            window=wholes("window", self.window, 1, count=3, remedy=remedy),
            topk=whole("topk", self.topk, remedy="it counts tiles"),
            weight=share("weight", self.weight, zero=True),
            share_heads=flag("share_heads", self.share_heads),
        )
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def token_order(self, grid) -> TokenOrder:
        """Tile order."""
        return TokenOrder(grid, math.prod(self.tile), self.tile)

    def choose(self, q, k, order, ctx):
        """The window and the tiles of best score."""
        video = order.num_video_blocks
        # Of all places of a tile: what cosines do not see, similarity does.
        filled = order.video_lengths.astype(np.float32) / np.float32(order.block)
        q, k = (
            order.pool(x, ctx.text_lengths)[:, :video].swapaxes(1, 2) * filled[None, None, :, None]
            for x in (q, k)
        )
        if self.share_heads:
            q, k = (ctx.all_heads(x).mean(1, keepdims=True) for x in (q, k))
        best = keep_top(self._scores(q, k), min(self.topk, video))
        keep = best | self.window_tiles(order)[None, None]
        return video_mask(keep, order, min(self.topk, video) + self._largest_window(order))

    def window_tiles(self, order: TokenOrder) -> np.ndarray:
        """The tiles of each tile's window, bool [Nv, Nv]."""
        keep = np.ones((1, 1), bool)
        for count, window in zip(order.tiles, self.window, strict=True):
            keep = np.kron(keep, axis_window(count, window))
        return keep

    def _largest_window(self, order):
        return int(self.window_tiles(order).sum(-1).max())

    def _scores(self, q, k):
        """f32 [B, H|1, Nv, Nv] of mean q and k [B, H|1, Nv, D]."""

        def products(a, b):
            return jnp.einsum("bhid,bhjd->bhij", a, b, precision="highest")

        if self.sampling == "similarity":
            return products(q, k)
        tiny = np.finfo(np.float32).tiny
        q, k = (x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), tiny) for x in (q, k))
        count, weight = k.shape[2], np.float32(self.weight)
        others = jnp.where(np.eye(count, dtype=bool)[None, None], 0, (products(k, k) + 1) / 2)
        redundancy = others.sum(2, keepdims=True) / np.float32(max(count - 1, 1))
        return weight * (products(q, k) + 1) / 2 - (1 - weight) * redundancy


METHODS = (
    Method(
        name="ssta",
        title="SSTA",
        source="HunyuanVideo-1.5: tiles (6, 8, 8), window (3, 3, 3), the 64 best (32 up to 31 frames), "
        "hybrid: every tenth layer and the last dense",
        pattern=lambda grid, num_heads, layer: SSTA(topk=64 if grid.frames > 31 else 32),
        dense_layers=lambda num_layers: tuple(
            layer for layer in range(1, num_layers) if layer % 10 == 9 or layer == num_layers - 1
        ),
        trained=True,
    ),
)
