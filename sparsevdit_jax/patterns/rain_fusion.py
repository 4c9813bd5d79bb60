"""RainFusion: blocks of cells by pooled scores, the first frame full (RainFusion2, arXiv 2512.24086)."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from pallas_kernels import BlockMask
from pallas_kernels._values import whole
from sparsevdit_jax.block_rules import keep_from
from sparsevdit_jax.method import Method
from sparsevdit_jax.pooled import PooledPattern, pooled_scores
from sparsevdit_jax.selection import densities, round_up, row_budget
from sparsevdit_jax.token_order import TokenOrder

_DIALECTS = {"lightx2v": "rainfusion", "sglang": "rainfusion-frames"}


@dataclasses.dataclass(frozen=True)
class RainFusion(PooledPattern):
    """Each block reads the blocks of highest pooled score; the first frame reads and is read by all.

    A row keeps every block whose score is not below its n-th highest, so ties add blocks; the blocks
    with the first frame count among the n.

    Follows ModelTC/LightX2V's rainfusion_attn.py ("lightx2v") or SGLang's rain_fusion_attn.py
    ("sglang"); both call themselves RainFusion2 or after it, and their orders and masks differ:

    - "lightx2v": cells of 2 x 8 x 8 over the frames after the first, what fills no cell, the first
      frame, text, without gaps between them; all blocks from the first frame's start on are full,
      and text competes as part of them. There n is counted over all blocks.
    - "sglang": cells of 8 x 8 in each frame, the first frame in front. It has no text; here text is
      kept and does not count.

    Differs: blocks are chosen in every layer and step (LightX2V chooses in the first layer of a step,
    or of a run, and shares them with all others); LightX2V's softmax before the choice is left out,
    for it changes no rank but where weights underflow; an odd number of frames after the first is
    allowed.

    Attributes:
      density: share of the blocks that n is, rounded up; a tuple with one for each head is a budget
        for each. Where a schedule gives densities, they take its place.
      block: tokens in a block.
      dialect: "lightx2v" or "sglang".
    """

    density: float | tuple[float, ...] = 0.2
    block: int = 128
    dialect: str = "lightx2v"

    def __post_init__(self):
        object.__setattr__(self, "density", densities(self.density))
        object.__setattr__(self, "block", whole("block", self.block, 1, remedy="it counts tokens"))
        if self.dialect not in _DIALECTS:
            raise ValueError(f"dialect={self.dialect!r} must be one of {tuple(_DIALECTS)}")

    def token_order(self, grid) -> TokenOrder:
        """The dialect's walk; LightX2V's text follows the video without a gap."""
        joined = self.dialect == "lightx2v"
        return TokenOrder(grid, self.block, path=_DIALECTS[self.dialect], joined=joined)

    def choose(self, q, k, order, ctx):
        """The best blocks of each row, and the full ones."""
        full = self.full_blocks(order)
        compete = order.num_blocks if order.joined else order.num_video_blocks
        scores = pooled_scores(q, k, order, ctx)[..., :compete]
        if order.num_text_blocks:
            text = ctx.text_lengths
            empty = jnp.asarray(order.lengths(text)[..., None, :compete]) == 0
            scores = jnp.where(empty, -jnp.inf, scores)
        counts, _ = row_budget(self.density, compete, ctx, rounding=round_up)
        keep = keep_from(scores, counts)
        keep = jnp.pad(keep, (*((0, 0),) * 3, (0, order.num_blocks - compete)))
        keep = keep | full[None, None, None] | full[None, None, :, None]
        return BlockMask.from_dense(keep, block_q=self.block, block_kv=self.block)

    def full_blocks(self, order: TokenOrder) -> np.ndarray:
        """Blocks that read and are read by all, bool [N]: those of the first frame and of text."""
        grid, block = order.grid, np.arange(order.num_blocks)
        frame = grid.height * grid.width
        if order.joined:
            return block >= (grid.num_video_tokens - frame) // self.block
        return (block < -(-frame // self.block)) | (block >= order.num_video_blocks)


METHODS = (
    Method(
        name="rainfusion",
        title="RainFusion2",
        source="ModelTC/LightX2V rainfusion_attn.py: blocks of 128, sparsity 0.8",
        pattern=lambda grid, num_heads, layer: RainFusion(),
    ),
)
