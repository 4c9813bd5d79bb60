"""What joins the two branches of trained sparse attention: VSA's gate and SLA's projection.

Both start at zero, so that a model that gets one computes the sparse branch alone until it is trained.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from sparsevdit_jax import SparseAttention

from . import layers


class GateCompress(nnx.Module):
    """VSA: main + to_gate_compress(hidden) * side, a gate for each token and channel, without a sigmoid.

    Args:
      dim: channels of the layer's input, and of all heads together.
      bias: FastWan's gates have one; MiniMax-H3's have none.
      dtype: of weights and compute.

    Reference: VSA (arXiv 2505.13389), section 2.2; FastVideo's names.
    """

    def __init__(self, dim: int, *, bias: bool = True, dtype: Any = jnp.float32, rngs: nnx.Rngs):
        self.to_gate_compress = layers.Linear(
            dim, dim, bias=bias, dtype=dtype, kernel_init=nnx.initializers.zeros, rngs=rngs
        )

    def __call__(self, main: jax.Array, side: jax.Array, hidden: jax.Array) -> jax.Array:
        """[B, L, H, D] of main and side [B, L, H, D] and the layer's input [B, L, dim]."""
        gate = self.to_gate_compress(hidden).reshape(main.shape)
        return main + (gate * side).astype(main.dtype)


class ProjectLinear(nnx.Module):
    """SLA: main + proj_l(side), one projection for all heads of a layer, in float32 as it is stored.

    Args:
      head_dim: channels of a head.
      dtype: of weights and compute.

    Reference: SLA (arXiv 2509.24006), section 4; TurboDiffusion's names.
    """

    def __init__(self, head_dim: int, *, dtype: Any = jnp.float32, rngs: nnx.Rngs):
        self.proj_l = layers.Linear(
            head_dim, head_dim, dtype=dtype, kernel_init=nnx.initializers.zeros, rngs=rngs
        )

    def __call__(self, main: jax.Array, side: jax.Array, hidden: jax.Array) -> jax.Array:
        """[B, L, H, D] of main and side [B, L, H, D]."""
        del hidden
        return main + self.proj_l(side).astype(main.dtype)


@dataclasses.dataclass(frozen=True)
class Combine:
    """One way to join two branches.

    Attributes:
      make: (dim, num_heads, *, dtype, rngs) -> the module of one layer.
      tensor: part of the names of its weights, by which a checkpoint is known.
    """

    make: Callable[..., nnx.Module]
    tensor: str


COMBINE: dict[str, Combine] = {
    "vsa": Combine(lambda dim, num_heads, **kw: GateCompress(dim, **kw), "to_gate_compress"),
    "sla": Combine(
        lambda dim, num_heads, *, dtype, rngs: ProjectLinear(dim // num_heads, rngs=rngs), "proj_l"
    ),
}
"""By the name of the method whose pattern has the side branch (`sparsevdit_jax.presets.METHODS`)."""


def check_branches(combine: str | None, attention: SparseAttention | None) -> None:
    """Refuses to leave out a branch that a model was trained with.

    Args:
      combine: of the model's configuration.
      attention: what it is called with; None is dense.

    Raises:
      ValueError: a layer's pattern has no side branch, and the model's weights expect one.
    """
    if combine is None:
        return
    lacking = (
        [p for p in attention.patterns if not p.has_side] if attention else ["dense attention"]
    )
    if lacking:
        raise ValueError(
            f"this model was trained with {combine}, whose second branch {lacking[0]} does not have; call it with "
            f"sparsevdit_jax.presets.attention_for({combine!r}, ...), or with patterns of that method"
        )


def combine_of(names: Iterable[str]) -> str | None:
    """The method whose weights are among the tensors of a checkpoint; None: it has no second branch."""
    parts = {part for name in names for part in name.split(".")}
    return next((method for method, c in COMBINE.items() if c.tensor in parts), None)
