"""The attention problems that others have published times for, and small versions of them.

Sources: FastVideo's STA and VSA benchmarks, NATTEN's and FlashAttention 3's tables, FlashInfer's
H200 runs. A floating-point operation counts where its block is selected: 4 D for each token pair
forward (two products), 2.5 times that backward (five).
"""

import dataclasses
import math

import jax
import numpy as np

from pallas_kernels import BlockMask
from sparsevdit_jax import VideoGrid
from sparsevdit_jax.patterns import SlidingTile
from sparsevdit_jax.token_order import TokenOrder

PEAK_TFLOPS = 989.5  # bfloat16, dense, H100 and H200 SXM: 132 SMs x 1.83 GHz x 4,096
PUBLISHED_MS = {  # others' times of the same problem, forward, kernel alone
    "S1": "ThunderKittens 25.38 (H100), NATTEN 23.36 (H100)",
    "S2": "ThunderKittens 111.73 (H100)",
    "S3": "FlashAttention 3 265.3, cuDNN 283.3 (H100)",
    "V4": "FlashInfer 5.754 and 5.077 (H200)",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One attention problem: sliding tiles of a video, or the same number of blocks in every row.

    Attributes:
      name: as in the tables.
      batch: B.
      heads: H.
      head_dim: D.
      grid: tokens of the video, for sliding tiles.
      tile: tokens of a tile.
      window: tiles of the window.
      length: L, without a grid.
      block: tokens of a block, without a grid.
      top_k: blocks in each row, drawn for each head; None: all of them.
    """

    name: str
    batch: int = 1
    heads: int
    head_dim: int = 128
    grid: tuple[int, int, int] | None = None
    tile: tuple[int, int, int] = (6, 8, 8)
    window: tuple[int, int, int] = (3, 3, 3)
    length: int = 0
    block: int = 128
    top_k: int | None = None

    @property
    def order(self) -> TokenOrder:
        """Raster order to tiles; only with a grid."""
        return TokenOrder(VideoGrid(*self.grid), math.prod(self.tile), self.tile)

    @property
    def tokens(self) -> int:
        """Real tokens of the sequence."""
        return math.prod(self.grid) if self.grid else self.length

    @property
    def slots(self) -> int:
        """Length of q, k and v, padding at the border of the video included."""
        return self.order.num_slots if self.grid else self.length

    @property
    def pattern(self) -> SlidingTile:
        """The sliding tiles; only with a grid."""
        return SlidingTile(self.tile, self.window, even_window="exact")

    def mask(self) -> BlockMask:
        """The blocks of every row, as numpy arrays."""
        if self.grid:
            return self.pattern.block_mask(VideoGrid(*self.grid), self.heads)
        n = -(-self.length // self.block)
        sizes = {"block_q": self.block, "block_kv": self.block}
        if self.top_k is None:
            return BlockMask.full(n, n, **sizes)
        # float32 halves the memory of 7 x 1,713 x 1,713 draws
        draws = np.random.default_rng(0).random((self.heads, n, n), np.float32)
        indices = np.sort(np.argpartition(draws, self.top_k - 1)[..., : self.top_k])[None]
        counts = np.full(indices.shape[:3], self.top_k, np.int32)
        return BlockMask(indices.astype(np.int32), counts, **sizes, num_kv_blocks=n)

    def inputs(self, key: jax.Array, count: int, dtype: str) -> list[jax.Array]:
        """`count` random arrays [B, slots, H, D]."""
        shape = self.batch, self.slots, self.heads, self.head_dim
        return [jax.random.normal(x, shape, dtype) for x in jax.random.split(key, count)]

    def flops(self, density: float) -> int:
        """Of a forward pass over `density` of all token pairs."""
        return round(4 * self.batch * self.heads * self.head_dim * self.tokens**2 * density)

    def small(self) -> "Case":
        """The same kind of problem at a size for any machine; keeps ragged borders ragged."""
        if not self.grid:
            top_k = self.top_k and 3
            length = (8 if top_k else 2) * self.block
            small = {"batch": min(self.batch, 2), "heads": 2, "length": length}
            return dataclasses.replace(self, **small, top_k=top_k)
        tile, ragged = (2, 4, 4), [n % t > 0 for n, t in zip(self.grid, self.tile, strict=True)]
        grid = tuple(3 * t - r for t, r in zip(tile, ragged, strict=True))
        tiles = self.order.tiles
        window = tuple(3 if w >= n else 1 for w, n in zip(self.window, tiles, strict=True))
        return dataclasses.replace(self, heads=2, grid=grid, tile=tile, window=window)


_STEP_VIDEO = (36, 48, 48)
_SPARSE = (
    Case(name="S1", heads=24, grid=(30, 48, 80)),
    Case(name="S2", heads=24, grid=(30, 48, 80), window=(5, 5, 5)),
    Case(name="S3", heads=24, grid=(30, 48, 80), window=(5, 6, 10)),
    Case(name="S4", batch=2, heads=24, grid=(18, 48, 80), window=(3, 3, 5)),
    Case(name="S4full", batch=2, heads=24, grid=(18, 48, 80), window=(3, 6, 10)),
    Case(name="S5", batch=2, heads=24, grid=_STEP_VIDEO, window=(3, 3, 6)),
    Case(name="S6", heads=40, grid=(21, 45, 80), window=(3, 3, 3)),
    Case(name="S6small", heads=12, grid=(21, 30, 52), window=(2, 2, 3)),
    Case(name="V1", heads=16, length=49_152, block=64, top_k=64),
    Case(name="V2", heads=12, length=49_152, block=64, top_k=76),
    Case(name="V4", heads=7, length=109_632, block=64, top_k=64),
)
_DENSE = tuple(  # FlashAttention's: 16k tokens, width 2,048
    Case(name=f"D1_{length}_{dim}", batch=16_384 // length, heads=2048 // dim, head_dim=dim, length=length)
    for dim in (64, 128)
    for length in (512, 1024, 2048, 4096, 8192, 16_384)
)  # fmt: skip
SPARSE = {case.name: case for case in _SPARSE}
DENSE = {case.name: case for case in _DENSE}
CASES = SPARSE | DENSE
