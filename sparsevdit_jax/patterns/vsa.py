"""VSA, video sparse attention: the best cubes of tokens, and attention between cubes beside them
(arXiv 2505.13389).
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from sparsevdit_jax import selection
from sparsevdit_jax.method import Method
from sparsevdit_jax.pooled import PooledPattern, pooled_scores
from sparsevdit_jax.token_order import TokenOrder, check_tile


@dataclasses.dataclass(frozen=True)
class VSA(PooledPattern):
    """Each cube of queries attends to the cubes whose mean key it likes best; a side branch attends
    from cube to cube.

    Queries, keys and values are averaged over the real tokens of each cube. The scores are the scaled
    products of mean queries and mean keys. Each video row keeps the cubes of highest score, at every
    step anew, and no gradient passes this choice. The side branch is the softmax of the scores times
    the mean values, given to every token of a cube; it has gradients. The trained model adds it through
    a gate: ``out + gate(hidden) * side`` (`models.combine.GateCompress`). Without that branch it is not
    the trained function, so a dense step has it too.

    The released code differs from the paper: it has no gate on the fine branch. This follows the code.
    The code knows no text in the sequence. Here text tokens keep everything and are kept by everything,
    and have no part in the side branch.

    Attributes:
      density: share of the cubes that a video row keeps, 1 - sparsity: ``ceil(density * cubes)``, one at
        least; or a tuple, one for each head. A step's own density takes its place
        (`StepSchedule.density`), which is how training lowers it.
      tile: frames, rows and columns of a cube; cubes at the far edges may be smaller.
    """

    density: float | tuple[float, ...] = 0.2
    tile: tuple[int, int, int] = (4, 4, 4)

    sees_dense_steps = True

    def __post_init__(self):
        object.__setattr__(self, "density", selection.densities(self.density))
        object.__setattr__(self, "tile", check_tile(self.tile))

    def token_order(self, grid) -> TokenOrder:
        """Cubes in raster order, text last."""
        return TokenOrder(grid, math.prod(self.tile), self.tile)

    def choose(self, q, k, order, ctx):
        """The best cubes of each row, and all text."""
        scores = pooled_scores(q, k, order, ctx)
        return selection.top_blocks(scores, self.density, order, ctx, rounding=selection.ceil_count)

    def side(self, q, k, v, plan, ctx):
        """Attention between cubes: softmax(scores) times mean values; 0 for text."""
        del plan
        order = self.token_order(ctx.grid)
        video = order.num_video_blocks
        weights = jax.nn.softmax(pooled_scores(q, k, order, ctx)[..., :video, :video], axis=-1)
        v = order.pool(v, ctx.text_lengths)[:, :video]
        coarse = jnp.einsum("bhij,bjhd->bihd", weights, v, precision=jax.lax.Precision.HIGHEST)
        coarse = jnp.pad(coarse, ((0, 0), (0, order.num_text_blocks), (0, 0), (0, 0)))
        return order.undo(jnp.repeat(coarse, order.block, 1)[:, : order.num_slots]).astype(q.dtype)


METHODS = (
    Method(
        name="vsa",
        title="VSA",
        source="arXiv 2505.13389; FastVideo, sparsity 0.8 as FastWan's weights were trained",
        pattern=lambda grid, num_heads, layer: VSA(),
        trained=True,
    ),
)
