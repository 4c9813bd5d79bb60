"""SLA, sparse-linear attention: the best blocks by softmax, and linear attention beside them
(arXiv 2509.24006).
"""

import dataclasses

from pallas_kernels import linear_attention
from pallas_kernels._values import whole
from pallas_kernels.linear_attention.features import FEATURES
from sparsevdit_jax import selection
from sparsevdit_jax.method import Method
from sparsevdit_jax.pattern import AttentionPlan
from sparsevdit_jax.pooled import PooledPattern, pooled_scores
from sparsevdit_jax.token_order import TokenOrder


@dataclasses.dataclass(frozen=True)
class SLA(PooledPattern):
    """Each block of queries attends to the key blocks whose mean it likes best; a side branch attends
    linearly to all keys.

    The blocks are runs of the raster sequence, larger for queries than for keys. A row keeps the key
    blocks with the highest products of means, at every step anew; no gradient passes this choice. The
    side branch is linear attention (`pallas_kernels.linear_attention`), which the trained model adds
    through a projection that starts at zero: ``out + proj(side)`` (`models.combine.ProjectLinear`).
    Without it, it is not the trained function, so a dense step has it too.

    Differs from the paper, as the authors' code does: linear attention takes all keys (`over="all"`), no
    class of blocks is skipped, and the denominator has an epsilon of 1e-5. Their branch SLA-1 takes
    the keys that softmax leaves out (`over="rest"`). The authors subtract the mean of all keys before
    the products; that moves all scores of a row alike and no choice depends on it, so it is left out
    here. Theirs knows no text in the sequence. Here text keeps everything and is kept by everything.

    Attributes:
      density: share of the key blocks that a video row keeps, ``floor(density * blocks)``, one at least;
        or a tuple, one for each head. A step's own density takes its place.
      block_q: tokens in a query block.
      block_kv: tokens in a key block.
      feature_map: of linear attention: "softmax", "elu" or "relu".
      over: the keys of linear attention, "all" or "rest".
    """

    density: float | tuple[float, ...] = 0.1
    block_q: int = 128
    block_kv: int = 64
    feature_map: str = "softmax"
    over: str = "all"

    sees_dense_steps = True

    def __post_init__(self):
        object.__setattr__(self, "density", selection.densities(self.density))
        for name in ("block_q", "block_kv"):
            given = whole(name, getattr(self, name), 1, remedy="it counts tokens")
            object.__setattr__(self, name, given)
        if self.feature_map not in FEATURES:
            raise ValueError(
                f"feature_map={self.feature_map!r} must be one of {', '.join(FEATURES)}"
            )
        if self.over not in ("all", "rest"):
            raise ValueError(f"over={self.over!r} must be 'all' or 'rest', the keys that are left")

    def token_order(self, grid) -> TokenOrder:
        """Queries in raster order, text last; keys have the same order in blocks of another size."""
        return TokenOrder(grid, self.block_q)

    def plan(self, q, k, state, ctx):
        """The best key blocks of each row, and all text."""
        order, kv_order = self.token_order(ctx.grid), TokenOrder(ctx.grid, self.block_kv)
        scores = pooled_scores(q, k, order, ctx, kv_order=kv_order)
        mask = selection.top_blocks(
            scores, self.density, order, ctx, kv_order=kv_order, rounding=selection.floor_count
        )
        return AttentionPlan(mask, order, kv_order), state

    def side(self, q, k, v, plan, ctx):
        """Linear attention over all keys, or over those that the plan leaves out."""
        order, kv_order = self.token_order(ctx.grid), TokenOrder(ctx.grid, self.block_kv)
        text = ctx.text_lengths if ctx.grid.text_len else None
        pairs = None
        if self.over == "rest":
            if plan.mask.is_full:
                return q * 0
            pairs = ~plan.mask.to_dense()
        out = linear_attention(
            order.apply(q),
            kv_order.apply(k),
            kv_order.apply(v),
            block_q=self.block_q,
            block_kv=self.block_kv,
            pairs=pairs,
            q_lengths=order.mask_lengths(text),
            kv_lengths=kv_order.mask_lengths(text),
            feature_map=self.feature_map,
        )
        return order.undo(out)


METHODS = (
    Method(
        name="sla",
        title="SLA",
        source="arXiv 2509.24006; TurboDiffusion: blocks of 128 x 64, a tenth of the key blocks",
        pattern=lambda grid, num_heads, layer: SLA(),
        trained=True,
    ),
)
