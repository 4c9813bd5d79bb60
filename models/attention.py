"""The attention module of all models: projections, norms of q and k, RoPE, the pattern, the output projection.

`Attention` is the module for one sequence, in every transformer here and in a model of your own:

    attention = Attention(dim, num_heads, rngs=rngs)
    out, state = attention(x, LayerAttention(pattern, state, ctx), rope=rope)

`JointAttention` has projections of its own for the text. Cross-attention and attention under a mask have the
parameters of `Projections` and a call of their own.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx

from pallas_kernels._pytree import pytree, static
from sparsevdit_jax import Attended, AttentionPattern, StepContext, attend
from sparsevdit_jax.parallel import join

from . import layers
from .rope import Rope, apply_rope

Norm = Literal["rms_norm", "rms_norm_across_heads", "layer_norm"]


@pytree
class LayerAttention:
    """The attention of one layer in one step; `models.stack.layer_attentions` makes one for each layer.

    Attributes:
      pattern: any pattern of `sparsevdit_jax`.
      state: the pattern's.
      ctx: the step.
    """

    pattern: AttentionPattern = static()
    state: Any
    ctx: StepContext

    def attend(self, q: jax.Array, k: jax.Array, v: jax.Array) -> Attended:
        """Attention of q to k and v [B, L, H, D], in the order of the context's grid and after RoPE."""
        return attend(self.pattern, q, k, v, self.state, self.ctx)


class Projections(nnx.Module):
    """Maps of tokens to queries, keys and values and back, and norms of queries and keys, with diffusers' names.

    Args:
      dim: channels of the tokens, a multiple of `num_heads`.
      num_heads: H.
      qk_norm: "rms_norm" or "layer_norm" over the channels of each head, "rms_norm_across_heads" over those of all
        heads at once, as diffusers calls them; None: no norms.
      eps: of the norms.
      bias: whether the maps to q, k and v have biases; the one back always has.
      fused: one matrix `to_qkv` for the three, whose outputs stand in this order.
      out: whether there is a map back.
      dtype: of weights and compute.
      operands: see `layers.Linear`; queries, keys and values are rounded to it, too. None: `dtype`.
      kernel_init: see `layers.Linear`.

    Raises:
      ValueError: `dim` does not divide into heads, or `qk_norm` is something else.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        qk_norm: Norm | None = "rms_norm",
        eps: float = 1e-6,
        bias: bool = True,
        fused: bool = False,
        out: bool = True,
        dtype: jax.typing.DTypeLike = jnp.float32,
        operands: jax.typing.DTypeLike | None = None,
        kernel_init: Callable | None = None,
        rngs: nnx.Rngs,
    ):
        if dim % num_heads:
            raise ValueError(f"{dim=} must be a multiple of {num_heads=}; change one of them")
        self.num_heads, self.qk_norm, self.fused, self.operands = (
            num_heads,
            qk_norm,
            fused,
            operands,
        )
        linear = functools.partial(
            layers.Linear, dtype=dtype, operands=operands, kernel_init=kernel_init, rngs=rngs
        )
        if fused:
            self.to_qkv = linear(dim, 3 * dim, bias=bias)
        else:
            self.to_q = linear(dim, dim, bias=bias)
            self.to_k = linear(dim, dim, bias=bias)
            self.to_v = linear(dim, dim, bias=bias)
        self.norm_q = _norm(qk_norm, dim, num_heads, eps, dtype)
        self.norm_k = _norm(qk_norm, dim, num_heads, eps, dtype)
        self.to_out = linear(dim, dim) if out else None

    def heads(self, x: jax.Array, norm: Callable | None = None) -> jax.Array:
        """x [B, L, dim], already projected, to [B, L, H, D]; `norm` is one that this module's `qk_norm` describes."""
        if norm is None:
            return layers.split_heads(x, self.num_heads)
        if self.qk_norm == "rms_norm_across_heads":
            return layers.split_heads(norm(x), self.num_heads)
        return norm(layers.split_heads(x, self.num_heads))

    def project(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """x [B, L, dim] to q and k, both normed, and v, all [B, L, H, D]."""
        if self.fused:
            q, k, v = jnp.split(self.to_qkv(x), 3, -1)
        else:
            q, k, v = self.to_q(x), self.to_k(x), self.to_v(x)
        return self.heads(q, self.norm_q), self.heads(k, self.norm_k), self.heads(v)

    def output(self, x: jax.Array) -> jax.Array:
        """The output projection of the heads' results [B, L, dim], if there is one."""
        return x if self.to_out is None else self.to_out(x)


class PatternAttention(Projections):
    """`Projections` whose heads attend by a layer's pattern. It holds parameters only, so one set of weights runs dense
    and sparse.

    Args:
      combine: joins the two branches of patterns with a side branch: combine(main, side, hidden) -> [B, L, H, D] of
        main and side [B, L, H, D] and the layer's input [B, L, dim]. It is a module, with the weights that its
        method has, and may be set later.
      options: of `Projections`.
    """

    def __init__(self, dim: int, num_heads: int, *, combine: Callable | None = None, **options):
        super().__init__(dim, num_heads, **options)
        self.combine = nnx.data(combine)

    def attend(
        self,
        qkv: tuple[jax.Array, ...],
        layer: LayerAttention,
        rope: Rope | None,
        hidden: jax.Array,
    ) -> tuple[jax.Array, Any]:
        """Attends: q, k and v [B, L, H, D] to the heads' results [B, L, dim] and the pattern's new state.

        Args:
          qkv: as from `project`.
          layer: what to attend by.
          rope: cosines and sines of the first tokens (`rope_table`); other tokens are not rotated. None: no token is.
          hidden: the layer's input [B, L, dim], for `combine`.

        Raises:
          ValueError: the pattern has a side branch and there is no `combine`.
        """
        q, k, v = qkv
        if rope is not None:
            q, k = apply_rope(q, rope), apply_rope(k, rope)
        if self.operands is not None:
            q, k, v = (x.astype(self.operands) for x in (q, k, v))
        attended = layer.attend(q, k, v)
        out = attended.out
        if attended.side is not None:
            if self.combine is None:
                raise ValueError(
                    f"{layer.pattern} has a side branch, but this attention has combine=None; set attention.combine "
                    "to the module of its method that joins the two"
                )
            out = self.combine(out, attended.side, hidden)
        return out.reshape(*out.shape[:2], -1), attended.state


class Attention(PatternAttention):
    """Attention of one sequence; arguments as `PatternAttention`'s and `Projections`'."""

    def __call__(
        self, x: jax.Array, layer: LayerAttention, *, rope: Rope | None = None
    ) -> tuple[jax.Array, Any]:
        """x [B, L, dim] in the order of the layer's grid to the same, and the pattern's new state; `rope` as above."""
        out, state = self.attend(self.project(x), layer, rope, x)
        return self.output(out), state


class JointAttention(PatternAttention):
    """Attention of [video, text] whose text has projections and norms of its own; arguments as `Attention`'s."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        qk_norm: Norm | None = "rms_norm",
        eps: float = 1e-6,
        dtype: jax.typing.DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
        **options,
    ):
        super().__init__(
            dim, num_heads, qk_norm=qk_norm, eps=eps, dtype=dtype, rngs=rngs, **options
        )
        linear = functools.partial(layers.Linear, dim, dim, dtype=dtype, rngs=rngs)
        self.add_q_proj, self.add_k_proj, self.add_v_proj = linear(), linear(), linear()
        self.norm_added_q = _norm(qk_norm, dim, num_heads, eps, dtype)
        self.norm_added_k = _norm(qk_norm, dim, num_heads, eps, dtype)
        self.to_add_out = linear()

    def project_text(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """`project` with the text's weights."""
        q = self.heads(self.add_q_proj(x), self.norm_added_q)
        k = self.heads(self.add_k_proj(x), self.norm_added_k)
        return q, k, self.heads(self.add_v_proj(x))

    def __call__(
        self, video: jax.Array, text: jax.Array, layer: LayerAttention, *, rope: Rope | None = None
    ) -> tuple[jax.Array, jax.Array, Any]:
        """What video [B, Lv, dim] and text [B, Lt, dim] take from both, and the pattern's new state."""
        pairs = zip(self.project(video), self.project_text(text), strict=True)
        qkv = tuple(join(*pair) for pair in pairs)
        hidden = video if self.combine is None else join(video, text)
        out, state = self.attend(qkv, layer, rope, hidden)
        tokens = video.shape[1]
        return self.output(out[:, :tokens]), self.to_add_out(out[:, tokens:]), state


def _norm(kind: Norm | None, dim: int, num_heads: int, eps: float, dtype) -> Any:
    if kind is None:
        return None
    if kind not in get_args(Norm):
        raise ValueError(f"qk_norm={kind!r} must be None or one of {', '.join(get_args(Norm))}")
    if kind == "layer_norm":
        return layers.LayerNorm(dim // num_heads, eps=eps, dtype=dtype)
    channels = dim if kind == "rms_norm_across_heads" else dim // num_heads
    return layers.RMSNorm(channels, eps=eps, dtype=dtype)
