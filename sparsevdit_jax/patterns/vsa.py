"""VSA, video sparse attention: the best cubes of tokens, and attention between cubes beside them
(arXiv 2505.13389).
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels._values import share
from sparsevdit_jax import selection
from sparsevdit_jax.method import Method
from sparsevdit_jax.pattern import AttentionPattern, AttentionPlan
from sparsevdit_jax.schedule import StepSchedule
from sparsevdit_jax.token_order import TokenOrder, check_tile


@dataclasses.dataclass(frozen=True)
class VSA(AttentionPattern):
    """Each cube of queries attends to the cubes whose mean key it likes best; a side branch attends
    from cube to cube.

    Queries, keys and values are averaged over the real tokens of each cube. The scores are the scaled
    products of mean queries and mean keys. Each video row keeps the cubes of highest score, at every
    step anew, and no gradient passes this choice. The side branch is the softmax of the scores times
    the mean values, given to every token of a cube; it has gradients. The trained model adds it through
    a gate: ``out + gate(hidden) * side`` (`models.combine.GateCompress`). Without that branch it is not
    the trained function.

    The released code differs from the paper: it has no gate on the fine branch. This follows the code.
    The code knows no text in the sequence. Here text tokens keep everything and are kept by everything,
    and have no part in the side branch.

    Attributes:
      density: share of the cubes that a video row keeps, 1 - sparsity: ``ceil(density * cubes)``, one at
        least. A step's own density takes its place (`StepSchedule.density`), which is how training
        lowers it.
      tile: frames, rows and columns of a cube; cubes at the far edges may be smaller.
    """

    density: float = 0.2
    tile: tuple[int, int, int] = (4, 4, 4)

    takes_density = True
    sees_dense_steps = True  # a dense step has the side branch too: the model was trained with it

    def __post_init__(self):
        kept = share("density", self.density, remedy="kept cubes / all cubes of a row")
        object.__setattr__(self, "density", kept)
        object.__setattr__(self, "tile", check_tile(self.tile))

    def token_order(self, grid) -> TokenOrder:
        """Cubes in raster order, text last."""
        return TokenOrder(grid, math.prod(self.tile), self.tile)

    def plan(self, q, k, state, ctx):
        """The best cubes of each row, and all text."""
        order = self.token_order(ctx.grid)
        video, text = order.num_video_blocks, order.num_text_blocks
        scores = jax.lax.stop_gradient(self.scores(q, k, ctx))
        scores = jnp.pad(scores, ((0, 0), (0, 0), (0, text), (0, text)))
        count = cubes(self.density if ctx.density is None else ctx.density, video)
        room = int(cubes(self.density if ctx.room is None else ctx.room, video))
        ranked = selection.rank_with_text(scores, order, room + text)
        return AttentionPlan(selection.ranked_mask(ranked, count, order), order), state

    def scores(self, q, k, ctx) -> jax.Array:
        """Scaled products of mean queries and mean keys of the video's cubes: f32 [B, H, Nv, Nv]."""
        order = self.token_order(ctx.grid)
        scale = q.shape[-1] ** -0.5 if ctx.kernel.scale is None else ctx.kernel.scale
        q, k = (order.pool(x, ctx.text_lengths)[:, : order.num_video_blocks] for x in (q, k))
        return scale * jnp.einsum("bihd,bjhd->bhij", q, k)

    def side(self, q, k, v, plan, ctx):
        """Attention between cubes: softmax(scores) times mean values; 0 for text."""
        del plan
        order = self.token_order(ctx.grid)
        weights = jax.nn.softmax(self.scores(q, k, ctx), axis=-1)
        v = order.pool(v, ctx.text_lengths)[:, : order.num_video_blocks]
        coarse = jnp.einsum("bhij,bjhd->bihd", weights, v)
        coarse = jnp.pad(coarse, ((0, 0), (0, order.num_text_blocks), (0, 0), (0, 0)))
        return order.undo(jnp.repeat(coarse, order.block, 1)[:, : order.num_slots]).astype(q.dtype)


def cubes(density, count: int):
    """``ceil(density * count)`` in 1..count; traced where `density` is. A product that is whole but for
    rounding counts as whole, so that 0.2 of 35 is 7.
    """
    exact = density * count - 1e-6 * count
    if isinstance(density, jax.Array):
        return jnp.clip(jnp.ceil(exact), 1, count).astype(np.int32)
    return min(max(math.ceil(exact), 1), count)


METHODS = (
    Method(
        name="vsa",
        title="VSA",
        source="arXiv 2505.13389; FastVideo, sparsity 0.8 as FastWan's weights were trained",
        pattern=lambda grid, num_heads, layer: VSA(),
        schedule=StepSchedule,
    ),
)
