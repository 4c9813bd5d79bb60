"""Skip-softmax: key blocks whose weights turn out to be tiny are left out (BLASST, arXiv 2512.12087)."""

import dataclasses
import math
from typing import Any

from pallas_kernels import BlockMask
from pallas_kernels._values import share, whole
from sparsevdit_jax.method import Method
from sparsevdit_jax.pattern import AttentionPattern, AttentionPlan
from sparsevdit_jax.token_order import TokenOrder


@dataclasses.dataclass(frozen=True)
class SkipSoftmax(AttentionPattern):
    """Queries walk all key blocks in order; one with weights below a share of the largest so far is skipped.

    A block of queries skips a block of keys where the largest logit of each of its real queries lies
    more than -log(threshold) below that query's running maximum, the block's own included (the rule of
    the authors' kernel; their torch simulation also keeps a gap of exactly that, and all of a short last
    block of queries). So a row loses at most threshold * keys of its largest weight. What is skipped
    depends on the order: here video in raster order, then text, which counts as any other block.

    Differs from TensorRT-LLM and SGLang, which have it inside the kernel, where skipping saves the
    exponentials and the product with v. Here implementations "reference" and "xla" take it, with a pass
    of its own to find the blocks: its meaning and its error, not yet its speed. The GPU kernels refuse
    it.

    Attributes:
      threshold: share of the largest weight; the authors' static setting is 0.1.
      block_q: queries in a block (128 or 64 in the kernels).
      block_kv: keys in a block.
      calibration: (a, b) as Model-Optimizer finds them for a model; the threshold is then
        a exp(b sparsity) / tokens, and the field `threshold` is not looked at. None: `threshold`.
      sparsity: share of the blocks that the calibrated threshold is to skip.
    """

    threshold: float = 0.1
    block_q: int = 128
    block_kv: int = 128
    calibration: tuple[float, float] | None = None
    sparsity: float = 0.5

    def __post_init__(self):
        checked: dict[str, Any] = dict(
            threshold=share("threshold", self.threshold, remedy="a share of the largest weight"),
            sparsity=share("sparsity", self.sparsity, zero=True),
        )
        for name in ("block_q", "block_kv"):
            checked[name] = whole(name, getattr(self, name), 1, remedy="it counts tokens")
        if self.calibration is not None:
            checked["calibration"] = _pair(self.calibration)
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def threshold_on(self, num_tokens: int) -> float:
        """The threshold of a sequence, at most 1."""
        if self.calibration is None:
            return self.threshold
        a, b = self.calibration
        return min(a * math.exp(b * self.sparsity) / num_tokens, 1.0)

    def plan(self, q, k, state, ctx):
        """All blocks, and the threshold."""
        del k
        q_order, kv_order = (TokenOrder(ctx.grid, n) for n in (self.block_q, self.block_kv))
        mask = BlockMask.full(
            q_order.num_blocks, kv_order.num_blocks, block_q=self.block_q, block_kv=self.block_kv
        )
        below = self.threshold_on(q.shape[1])
        return AttentionPlan(mask, q_order, kv_order, skip_below=below), state


def _pair(values):
    given = tuple(values) if isinstance(values, tuple | list) else ()
    sound = len(given) == 2 and all(
        isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x) for x in given
    )
    if not sound or given[0] <= 0:
        raise ValueError(
            f"calibration={values!r} must be (a, b), finite numbers with a > 0; None uses threshold"
        )
    return float(given[0]), float(given[1])


METHODS = (
    Method(
        name="skip-softmax",
        title="Skip-softmax",
        source="NVIDIA Model-Optimizer, flash_skip_softmax: static threshold 0.1",
        pattern=lambda grid, num_heads, layer: SkipSoftmax(),
    ),
)
