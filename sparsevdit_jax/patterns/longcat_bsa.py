"""LongCatBSA: tiles of most pooled attention, by number, by share, or both (LongCat-Video's BSA)."""

import dataclasses
import math

from pallas_kernels._values import share
from sparsevdit_jax.block_rules import keep_share, video_mask
from sparsevdit_jax.method import Method
from sparsevdit_jax.pooled import PooledPattern, pooled_scores, video_weights
from sparsevdit_jax.selection import densities, round_down, row_budget, top_blocks
from sparsevdit_jax.token_order import TokenOrder, check_tile


@dataclasses.dataclass(frozen=True)
class LongCatBSA(PooledPattern):
    """Each tile reads the tiles whose mean keys have the largest products with its mean query.

    With `density` that is a number of tiles. With `mass` it is the tiles of largest weight while the
    sum of their weights (a softmax over tiles) is at most `mass`; the tile that passes it is left
    out, so that a row with one heavy tile keeps none at all. With both a row keeps whichever is
    more.

    Follows LongCat-Video's bsa_interface.py (arXiv 2510.22200). Differs: any latent grid (there tiles
    must divide it), text is kept, and one tile at least where there is a `density`.

    Attributes:
      density: share of the tiles that a row keeps, rounded down; a tuple with one for each head is a
        budget for each. None: `mass` alone decides. Where a schedule gives densities, they take its
        place.
      mass: share of a row's pooled attention that the tiles hold together. None: `density` alone.
      tile: frames, rows, columns of a tile, in tokens.
    """

    density: float | tuple[float, ...] | None = 0.0625
    mass: float | None = None
    tile: tuple[int, int, int] = (4, 4, 4)

    def __post_init__(self):
        object.__setattr__(self, "tile", check_tile(self.tile))
        if self.density is None and self.mass is None:
            raise ValueError(
                "density=None and mass=None keep nothing; give a share of the tiles or of the mass"
            )
        if self.density is not None:
            object.__setattr__(self, "density", densities(self.density))
        if self.mass is not None:
            remedy = "share of a row's pooled attention"
            object.__setattr__(self, "mass", share("mass", self.mass, remedy=remedy))

    @property
    def takes_density(self) -> bool:  # pyrefly: ignore
        """Whether it keeps a number of tiles."""
        return self.density is not None

    def token_order(self, grid) -> TokenOrder:
        """Tile order."""
        return TokenOrder(grid, math.prod(self.tile), self.tile)

    def choose(self, q, k, order, ctx):
        """The tiles of highest score, or of most weight."""
        scores = pooled_scores(q, k, order, ctx)
        if self.mass is None:
            return top_blocks(scores, self._density, order, ctx, rounding=round_down)
        least = 0
        if self.density is not None:
            video = order.num_video_blocks
            least, _ = row_budget(self.density, video, ctx, rounding=round_down)
        weights = video_weights(scores, order)
        keep = keep_share(weights, self.mass, crossing=False, least=least)
        return video_mask(keep, order)


METHODS = (
    Method(
        name="longcat-bsa",
        title="LongCat BSA",
        source="meituan-longcat/LongCat-Video: tiles of 4 x 4 x 4, sparsity 0.9375",
        pattern=lambda grid, num_heads, layer: LongCatBSA(),
        trained=True,
    ),
)
