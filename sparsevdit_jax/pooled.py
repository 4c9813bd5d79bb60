"""Block scores from pooled queries and keys, and the base of the patterns that choose by them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels import BlockMask
from sparsevdit_jax.context import StepContext
from sparsevdit_jax.pattern import AttentionPattern, AttentionPlan
from sparsevdit_jax.token_order import TokenOrder


class PooledPattern(AttentionPattern):
    """A pattern that scores block pairs by pooled q and k, anew in every step, and keeps the best.

    A subclass is a frozen dataclass with `token_order` and `choose`. Where it has a field `density`,
    that is a number, or a tuple with one for each head of the layer.
    """

    takes_density = True

    def token_order(self, grid) -> Any:
        """The TokenOrder of queries and keys; None from one that overrides `plan`."""
        raise NotImplementedError

    def choose(self, q, k, order: TokenOrder, ctx: StepContext) -> BlockMask:
        """The mask of these q, k [B, L, H, D] in raster order; no gradient passes."""
        raise NotImplementedError

    def plan(self, q, k, state, ctx):
        """The blocks of this step, in the pattern's order."""
        order = self.token_order(ctx.grid)
        q, k = (jax.lax.stop_gradient(x) for x in (q, k))
        return AttentionPlan(self.choose(q, k, order, ctx), order), state

    def init(self, grid, *, batch, num_heads, head_dim):
        """No state."""
        del batch, head_dim
        self.token_order(grid)
        self._check_heads(num_heads)
        return ()

    @property
    def serves_any_head(self) -> bool:
        """Whether all heads have one density."""
        return not isinstance(self._density, tuple)

    def at_step(self, step, num_heads):
        """The pattern of each head's density."""
        del step
        if self.serves_any_head:
            return (self,) * num_heads
        self._check_heads(num_heads)
        return tuple(self.with_density(d) for d in self._density)

    def head_work(self, state, ctx, num_heads):
        """The densities of the heads, where they differ."""
        del state, ctx, num_heads
        return None if self.serves_any_head else np.asarray(self._density)

    @property
    def _density(self) -> Any:
        return getattr(self, "density", None)

    def _check_heads(self, num_heads):
        if not self.serves_any_head and len(self._density) != num_heads:
            raise ValueError(
                f"{type(self).__name__} has densities for {len(self._density)} heads, but the layer "
                f"has {num_heads}; give one number, or one for each head"
            )


def pooled_scores(
    q: jax.Array,
    k: jax.Array,
    order: TokenOrder,
    ctx: StepContext,
    *,
    parts: tuple[int, int] = (1, 1),
    rounded: bool = False,
    centred: bool = False,
    kv_order: TokenOrder | None = None,
) -> jax.Array:
    """Scaled logits of pooled queries and keys: f32 [B, H, Nq, Nk] in their orders.

    Means are of real tokens; a block without any has the score 0, or -inf where it has parts.

    Args:
      q: [B, L, H, D], raster order.
      k: as q.
      order: block order of the queries.
      ctx: the step's text lengths and scale.
      parts: equal parts of a query block and of a key block. The score is the log-sum-exp over all
        pairs of parts that hold real tokens.
      rounded: means are rounded to bfloat16, those of queries after the scale and log2(e).
      centred: the mean of all real keys is subtracted from them. It moves a row's scores alike, so it
        matters to what compares rows, or rounds (SLA, SpargeAttn).
      kv_order: block order of the keys; None: `order`.
    """
    scale = _scale(q, ctx)
    unit = np.log2(np.e) if rounded else 1.0
    orders = (order, order if kv_order is None else kv_order)
    cells = [o.pool(x, ctx.text_lengths, n) for o, x, n in zip(orders, (q, k), parts, strict=True)]
    cells[0] = cells[0] * np.float32(scale * unit)
    text = ctx.text_lengths if ctx.grid.text_len else None
    sizes = [jnp.asarray(o.lengths(text, n)) for o, n in zip(orders, parts, strict=True)]
    if centred:
        weights = (sizes[1] / sizes[1].sum(-1, keepdims=True)).swapaxes(1, 2)[..., None]
        cells[1] = cells[1] - (cells[1] * weights).sum(1, keepdims=True)
    if rounded:
        # A cast there and back may be compiled away.
        cells = [jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7) for x in cells]
    if parts == (1, 1):
        return _products(*(x.swapaxes(1, 2) for x in cells)) / np.float32(unit)
    split = [
        (_by_part(x.swapaxes(1, 2), 2, n), _by_part(size > 0, 2, n))
        for x, size, n in zip(cells, sizes, parts, strict=True)
    ]

    def over_queries(total, query):
        def over_keys(total, key):
            real = query[1][..., None] & key[1][:, :, None]
            scores = _products(query[0], key[0]) / np.float32(unit)
            return jnp.logaddexp(total, jnp.where(real, scores, -jnp.inf)), None

        return jax.lax.scan(over_keys, total, split[1])[0], None

    shape = (q.shape[0], q.shape[2], *(o.num_blocks for o in orders))
    return jax.lax.scan(over_queries, jnp.full(shape, -jnp.inf, np.float32), split[0])[0]


def video_weights(scores: jax.Array, order: TokenOrder) -> jax.Array:
    """Softmax of scores [B, H, N, N] among video blocks: f32 [B, H, Nv, Nv]."""
    video = order.num_video_blocks
    return jax.nn.softmax(scores[..., :video, :video], axis=-1)


def logits(q: jax.Array, k: jax.Array, ctx: StepContext) -> jax.Array:
    """Scaled logits of means q and k, f32 [B, n, H, D], in float32: [B, H, n, n]."""
    return _products((q * np.float32(_scale(q, ctx))).swapaxes(1, 2), k.swapaxes(1, 2))


def _scale(q, ctx):
    return q.shape[-1] ** -0.5 if ctx.kernel.scale is None else ctx.kernel.scale


def _products(q, k):
    return jnp.einsum("bhid,bhjd->bhij", q, k, precision=jax.lax.Precision.HIGHEST)


def _by_part(x, axis, parts):
    """[..., N * parts, ...] -> [parts, ..., N, ...]."""
    x = x.reshape(*x.shape[:axis], -1, parts, *x.shape[axis + 1 :])
    return jnp.moveaxis(x, axis + 1, 0)
