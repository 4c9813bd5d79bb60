"""SubBlock: block scores by log-sum-exp over the means of sub-cells (SGLang; there is no paper)."""

import dataclasses

from pallas_kernels._values import flag, whole
from sparsevdit_jax.method import Method, warm_up
from sparsevdit_jax.pooled import PooledPattern, pooled_scores
from sparsevdit_jax.selection import densities, round_up, top_blocks
from sparsevdit_jax.token_order import TokenOrder


@dataclasses.dataclass(frozen=True)
class SubBlock(PooledPattern):
    """Each video row keeps the blocks that hold most of its softmax mass, as sub-cells estimate it.

    A block is cut into equal parts, and each part has one mean. The score of a pair of blocks is the
    log of the sum over all pairs of parts of exp(scaled product of their means): what a single mean
    of 64 tokens averages away still counts. Parts without real tokens are left out.

    Follows SGLang's `subblock_sparse_attn` (sgl-project/sglang #34148), which has no sink, no
    diagonal and no neighbours. Differs: text is kept, as rows and columns, and costs no budget
    (there it competes; vLLM-Omni's copy protects it too); short sequences are sparse as well (there
    those below 4,096 tokens are dense).

    Attributes:
      density: share of the video blocks that a row keeps, rounded up to a whole block; a tuple with
        one for each head is a budget for each. Where a schedule gives densities, they take its place.
      block: tokens in a block.
      query_parts: parts of a query block.
      key_parts: parts of a key block.
      multiple: the blocks of a row are rounded up to a multiple of it, as that kernel needs: with few
        blocks the density is far above `density`.
      rounded: means are rounded to bfloat16, queries after the scale, as that code stores them.
    """

    density: float | tuple[float, ...] = 0.25
    block: int = 64
    query_parts: int = 4
    key_parts: int = 4
    multiple: int = 8
    rounded: bool = True

    def __post_init__(self):
        object.__setattr__(self, "density", densities(self.density))
        object.__setattr__(self, "rounded", flag("rounded", self.rounded))
        for name in ("block", "query_parts", "key_parts", "multiple"):
            object.__setattr__(self, name, whole(name, getattr(self, name), 1))
        for name in ("query_parts", "key_parts"):
            if self.block % getattr(self, name):
                raise ValueError(
                    f"{name}={getattr(self, name)} must divide block={self.block}, so that parts "
                    "are equal"
                )

    def token_order(self, grid) -> TokenOrder:
        """Raster order with text last."""
        return TokenOrder(grid, self.block)

    def choose(self, q, k, order, ctx):
        """The blocks of highest score."""
        parts = (self.query_parts, self.key_parts)
        scores = pooled_scores(q, k, order, ctx, parts=parts, rounded=self.rounded)
        return top_blocks(
            scores, self.density, order, ctx, rounding=round_up, multiple=self.multiple
        )


METHODS = (
    Method(
        name="subblock",
        title="SubBlock",
        source="sgl-project/sglang #34148: sparsity 0.75, 4 x 4 sub-cells, 10 of 50 steps dense",
        pattern=lambda grid, num_heads, layer: SubBlock(),
        schedule=warm_up(0.2),
    ),
)
