"""Jenga: blocks along a Gilbert curve, by share of the mass, number and neighbourhood (AttenCarve)."""

import dataclasses

import numpy as np

from pallas_kernels._values import flag, share, whole
from sparsevdit_jax.block_rules import keep_share, video_mask
from sparsevdit_jax.curves import PATHS
from sparsevdit_jax.masks.blocks import touching
from sparsevdit_jax.method import Method
from sparsevdit_jax.pooled import PooledPattern, pooled_scores, video_weights
from sparsevdit_jax.schedule import StepSchedule
from sparsevdit_jax.selection import densities, round_down, row_budget
from sparsevdit_jax.token_order import TokenOrder


@dataclasses.dataclass(frozen=True)
class Jenga(PooledPattern):
    """Each block of a space-filling curve reads its heaviest blocks, and all that touch it.

    Weights are a softmax over video blocks of the products of mean query and mean key. A row keeps
    the heaviest blocks until they hold more than `mass` (the last one included), or the share
    `density` of all blocks if that is more. It also keeps every block that holds one of the 26
    neighbours of a token of its own, and text.

    Reference: Jenga (arXiv 2505.16864), section 3.2, as dvlab-research/Jenga has it: its number is a
    floor. Its other half, ProRes, changes resolutions between steps and is no pattern. Differs: the
    curve is static (the code draws one of several for each layer in some settings), the last block
    of the video may be ragged, and text is not amplified.

    Attributes:
      density: share of the video blocks that a row keeps at least, rounded down, before neighbours;
        a tuple with one for each head is a budget for each. Where a schedule gives densities, they
        take its place: the authors lower them between stages.
      mass: share of a row's pooled attention.
      block: tokens in a block.
      path: the curve, a name of `curves.PATHS`: "gilbert" through the whole video, or "gilbert-frames"
        through one frame after the other (their Wan).
      first_frame: blocks of the first frame read one another (their Wan).
    """

    density: float | tuple[float, ...] = 0.25
    mass: float = 0.3
    block: int = 128
    path: str = "gilbert"
    first_frame: bool = False

    def __post_init__(self):
        object.__setattr__(self, "density", densities(self.density))
        remedy = "share of a row's pooled attention"
        object.__setattr__(self, "mass", share("mass", self.mass, remedy=remedy))
        object.__setattr__(self, "block", whole("block", self.block, 1, remedy="it counts tokens"))
        object.__setattr__(self, "first_frame", flag("first_frame", self.first_frame))
        if self.path not in PATHS:
            raise ValueError(f"path={self.path!r} must be one of {tuple(PATHS)}")

    def token_order(self, grid) -> TokenOrder:
        """The curve with text last."""
        return TokenOrder(grid, self.block, path=self.path)

    def choose(self, q, k, order, ctx):
        """The heaviest blocks and the neighbours."""
        weights = video_weights(pooled_scores(q, k, order, ctx), order)
        video = order.num_video_blocks
        least, _ = row_budget(self.density, video, ctx, rounding=round_down)
        always = touching(order)
        if self.first_frame:
            first = np.arange(video) < video // order.grid.frames
            always = always | (first[:, None] & first[None])
        keep = keep_share(weights, self.mass, crossing=True, least=least)
        return video_mask(keep | always[None, None], order)


def _stages(num_steps):
    """A quarter of the blocks, then 0.15 of them from the middle on: drop rates 0.75 and 0.85."""
    half = round(num_steps / 2)
    return StepSchedule(num_steps, density=(0.25,) * half + (0.15,) * (num_steps - half))


def _wan_stages(num_steps):
    """The same drop rates, which the first tenth of the steps reaches from 0; up to 0.25 is dense."""
    kept = []
    for step, target in enumerate(_stages(num_steps).density or ()):
        drop = min(1.0, 10 * step / max(num_steps - 1, 1)) * (1 - target)
        kept.append(1 - drop if drop > 0.25 else 1.0)
    return StepSchedule(num_steps, density=tuple(kept))


METHODS = (
    Method(
        name="jenga",
        title="Jenga",
        source=(
            "dvlab-research/Jenga, its Base: drop rates 0.75 and 0.85 of HunyuanVideo with p 0.3; of "
            "Wan 1.3B with p 0.9, the curve of each frame and a ramp"
        ),
        pattern=lambda grid, num_heads, layer: Jenga(),
        schedule=_stages,
        models={
            "wan": dict(
                pattern=lambda grid, num_heads, layer: Jenga(
                    mass=0.9, path="gilbert-frames", first_frame=True
                ),
                schedule=_wan_stages,
            )
        },
    ),
)
