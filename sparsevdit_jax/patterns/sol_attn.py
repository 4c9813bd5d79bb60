"""Sol-Attn: blocks above a threshold are exact, the others enter by their means (arXiv 2607.24027)."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels._checks import resolve_scale
from pallas_kernels._values import whole
from sparsevdit_jax.block_rules import video_mask
from sparsevdit_jax.context import StepContext
from sparsevdit_jax.grid import VideoGrid
from sparsevdit_jax.method import Method, warm_up
from sparsevdit_jax.pattern import AttentionPattern, AttentionPlan
from sparsevdit_jax.token_order import TokenOrder

_VARIANCES = ("diag", "exact")
_ROUNDS, _TAUS = 20, (-8.0, 8.0)  # of the authors' bisection


@dataclasses.dataclass(frozen=True)
class SolAttn(AttentionPattern):
    """A key block is exact where its mean key scores above the row's threshold; no block is dropped.

    With the means q' of a block of queries and k'_j of blocks of keys, block j is exact where
    ``s q' . k'_j > s q' . mean_j k'_j + tau sqrt(s**2 var + 1e-6)``, s being the scale times log2(e):
    more than tau standard deviations above the row's mean, about 16 % of the blocks at tau 1 and 2.3 %
    at tau 2 if scores are normal. Mean and variance count every block once, a short one too. The
    neighbours in the sequence and the sink are always exact. Every other block enters the same softmax
    as one key, its mean (`AttentionPlan.compensated`).

    Text is kept, as rows and as columns, and has no part in means and variances (so do the authors for
    HunyuanVideo: video by its own rule, merged with dense attention to the text).

    Follows NVlabs/Sana's `sol_attn`, which NVIDIA's TensorRT-LLM, SGLang, LightX2V and ComfyUI share.
    ComfyUI's default is tau 1.3 (0 to 4), LightX2V's 0.5. The number of exact blocks follows the data,
    so lists have room for all blocks.

    Attributes:
      tau: standard deviations above the mean; may be negative.
      variance: of a row's scores: "diag" takes the variance of each channel of the mean keys, "exact"
        that of the scores themselves.
      block: tokens in a block.
      neighbours: blocks before and after a block of queries that are exact.
      sink_tokens: video tokens, in block order, whose blocks are exact for all.
      sink_start: the first of them; None: they are the last.
      path: in which walk tokens are packed into blocks (`TokenOrder.path`): "morton-frame" is
        Sana's, "morton" LightX2V's, which says that it is Sana's and is not. None: raster order.
    """

    tau: float = 1.0
    variance: str = "diag"
    block: int = 64
    neighbours: int = 1
    sink_tokens: int = 0
    sink_start: int | None = None
    path: str | None = "morton-frame"

    def __post_init__(self):
        number = isinstance(self.tau, int | float | np.integer | np.floating)
        if not number or isinstance(self.tau, bool) or not math.isfinite(self.tau):
            raise ValueError(
                f"tau={self.tau!r} must be a finite number of standard deviations; -8 keeps nearly all "
                "blocks, 8 nearly none"
            )
        if self.variance not in _VARIANCES:
            raise ValueError(f"variance={self.variance!r} must be one of {_VARIANCES}")
        checked: dict[str, Any] = dict(
            tau=float(self.tau),
            block=whole("block", self.block, 1, remedy="it counts tokens"),
            neighbours=whole("neighbours", self.neighbours, remedy="it counts blocks on each side"),
            sink_tokens=whole("sink_tokens", self.sink_tokens, remedy="it counts video tokens"),
        )
        TokenOrder(VideoGrid(1, 1, 1), 1, path=self.path)  # refuses what is no walk
        if self.sink_start is not None:
            remedy = "None puts the sink at the end"
            checked["sink_start"] = whole("sink_start", self.sink_start, remedy=remedy)
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def token_order(self, grid) -> TokenOrder:
        """The walk's, with text last."""
        return TokenOrder(grid, self.block, path=self.path)

    def plan(self, q, k, state, ctx):
        """Exact blocks by the rule; the others compensated."""
        order = self.token_order(ctx.grid)
        scores, threshold = self.routes(q, k, ctx)
        keep = (scores > threshold[..., None]) | self.always(ctx.grid)[None, None]
        return AttentionPlan(video_mask(keep, order), order, compensated=True), state

    def routes(self, q, k, ctx: StepContext) -> tuple[jax.Array, jax.Array]:
        """Scores of pairs of video blocks, f32 [B, H, Nv, Nv], and the rows' thresholds [B, H, Nv].

        Both are base-2 logits of q and k [B, L, H, D] in raster order. No gradient flows through them.
        """
        scores, mean, deviation = self._statistics(q, k, ctx)
        return scores, mean + np.float32(self.tau) * deviation

    def fitted(self, q, k, ctx: StepContext, density: float) -> "SolAttn":
        """This pattern with the tau at which the mean share of exact video blocks is `density`.

        As the authors set HunyuanVideo's, once for a shape: by bisection on [-8, 8], 20 rounds, on q
        and k [B, L, H, D] of a step. Not under `jax.jit`.
        """
        scores, mean, deviation = self._statistics(q, k, ctx)
        above = np.asarray((scores - mean[..., None]) / deviation[..., None])
        always, (low, high) = self.always(ctx.grid), _TAUS
        for _ in range(_ROUNDS):
            middle = (low + high) / 2
            dense = ((above > middle) | always).mean() > density
            low, high = (middle, high) if dense else (low, middle)
        return dataclasses.replace(self, tau=(low + high) / 2)

    def always(self, grid) -> np.ndarray:
        """Pairs of video blocks that are exact whatever they hold, bool [Nv, Nv]."""
        count, tokens = self.token_order(grid).num_video_blocks, grid.num_video_tokens
        block = np.arange(count)
        keep = np.abs(block[:, None] - block) <= self.neighbours
        last = max(tokens - self.sink_tokens, 0)
        start = last if self.sink_start is None else self.sink_start
        stop = min(start + self.sink_tokens, tokens)
        if stop > start:
            keep[:, start // self.block : -(-stop // self.block)] = True
        return keep

    def _statistics(self, q, k, ctx):
        """(scores, mean and standard deviation of each row), base-2 logits."""
        order = self.token_order(ctx.grid)
        video = order.num_video_blocks
        q, k = (
            order.pool(jax.lax.stop_gradient(x), ctx.text_lengths)[:, :video].swapaxes(1, 2)
            for x in (q, k)
        )
        factor = np.float32(resolve_scale(ctx.kernel.scale, q.shape[-1]) * math.log2(math.e))
        scores = jnp.einsum("bhid,bhjd->bhij", q, k, precision="highest")
        mean = k.mean(2, keepdims=True)
        raw = jnp.einsum("bhid,bhjd->bhi", q, mean, precision="highest")
        if self.variance == "exact":
            spread = jnp.square(scores - raw[..., None]).mean(-1)
        else:
            of_keys = jnp.square(k - mean).mean(2, keepdims=True)
            spread = jnp.einsum("bhid,bhjd->bhi", q * q, of_keys, precision="highest")
        deviation = jnp.sqrt(spread * factor**2 + np.float32(1e-6))
        return scores * factor, raw * factor, deviation


METHODS = (
    Method(
        name="sol-attn",
        title="Sol-Attn",
        source="arXiv 2607.24027; SGLang's settings: 10 of 50 steps and the first two layers dense",
        pattern=lambda grid, num_heads, layer: SolAttn(),
        schedule=warm_up(0.2),
        dense_layers=lambda num_layers: tuple(range(min(2, num_layers - 1))),
    ),
)
