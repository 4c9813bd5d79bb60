"""A stack of transformer blocks: the attention of each, and rematerialisation."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparsevdit_jax import KernelOptions, Phase, SparseAttention, StepContext, VideoGrid
from sparsevdit_jax.parallel import spread_tokens, whole
from sparsevdit_jax.patterns import Dense

from .attention import LayerAttention


def layer_attentions(
    attention: SparseAttention | None,
    states: tuple[Any, ...],
    ctx: StepContext | None,
    *,
    grid: VideoGrid,
    num_layers: int,
    num_heads: int,
    text_lengths: jax.Array | np.ndarray | None = None,
) -> tuple[LayerAttention, ...]:
    """The attention of each layer, from the arguments that a model was called with.

    Args:
      attention: None is dense attention in every layer.
      states: what `attention.init` or the step before returned; not read without `attention`.
      ctx: the step's context; `text_lengths` takes the place of its own. None is allowed for dense.
      grid: the token sequence's shape, as the model counts it from its input.
      num_layers: layers that take a pattern.
      num_heads: heads of each.
      text_lengths: real text tokens of each row, int32 [B].

    Raises:
      ValueError: `attention` without `ctx`, or made for another grid, layer count or head count.
    """
    if attention is None:
        kernel = KernelOptions() if ctx is None else ctx.kernel
        dense = StepContext(grid, Phase.DENSE, text_lengths=text_lengths, kernel=kernel)
        return (LayerAttention(Dense(), (), dense),) * num_layers
    if ctx is None:
        raise ValueError(
            "attention= needs ctx=, the step's StepContext; make one with "
            f"attention.context(step, {grid})"
        )
    if ctx.grid != grid:
        raise ValueError(
            f"ctx is for {ctx.grid}, but this input has {grid}; take model.grid(...) of this input"
        )
    attention.check(grid=grid, num_layers=num_layers, num_heads=num_heads)
    if len(states) != num_layers:
        raise ValueError(
            f"{len(states)} states for {num_layers} layers; pass what attention.init(...) or the "
            "step before returned"
        )
    if text_lengths is not None:
        ctx = dataclasses.replace(ctx, text_lengths=text_lengths)
    pairs = zip(attention.patterns, states, strict=True)
    return tuple(LayerAttention(pattern, state, ctx) for pattern, state in pairs)


def run_blocks(
    blocks: Sequence[Any],
    carry: Any,
    *args: Any,
    layers: Sequence[LayerAttention],
    remat: bool = False,
    name: str = "block",
) -> tuple[Any, tuple[Any, ...]]:
    """Runs `block(carry, *args, layer=) -> (carry, state)` for every block in turn.

    Args:
      carry: token sequences [B, L, dim]; under a mesh they are sharded.
      layers: the attention of each block.
      remat: recompute each block in the backward pass (`jax.checkpoint`): memory of one block's
        activations instead of all blocks', for about a third more work.
      name: of the named scope in profiles, followed by the block's index.

    Returns:
      The last carry, and every block's new state.
    """

    call = _block_again if remat else _block
    new_states = []
    for i, (block, layer) in enumerate(zip(blocks, layers, strict=True)):
        carry = jax.tree.map(spread_tokens, carry)
        with jax.named_scope(f"{name}_{i}"):
            carry, state = call(block, carry, args, layer)
        new_states.append(state)
    return carry, tuple(new_states)


def _call(block, carry, args, layer):
    block = whole(block)  # from where `models.sharding` has put its weights
    return block(carry, *args, layer=layer)


# Jitted inside of the model's own program, so that equal blocks of one pattern are traced and lowered once.
_block, _block_again = jax.jit(_call), jax.jit(jax.checkpoint(_call))


def loop_blocks(
    blocks: Sequence[Any],
    carry: Any,
    *args: Any,
    layers: Sequence[LayerAttention],
    remat: bool = False,
) -> tuple[Any, tuple[Any, ...]]:
    """`run_blocks` for equal blocks that have one pattern, as a loop: compiled once, not once a layer.

    The weights of all blocks are copied side by side first, so it suits small models on one device.

    Raises:
      ValueError: the layers have several patterns.
    """
    first = layers[0]
    if len({layer.pattern for layer in layers}) > 1:
        raise ValueError(
            "the layers have several patterns; take run_blocks, or one pattern for all"
        )

    def call(carry, layer):
        block, state = layer
        return block(carry, *args, layer=dataclasses.replace(first, state=state))

    pairs = [(block, layer.state) for block, layer in zip(blocks, layers, strict=True)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *pairs)
    carry, new = jax.lax.scan(jax.checkpoint(call) if remat else call, carry, stacked)
    return carry, tuple(jax.tree.map(lambda x, i=i: x[i], new) for i in range(len(blocks)))
