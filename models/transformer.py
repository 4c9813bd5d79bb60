"""The interface of all video transformers: the token sequence, and what a call returns."""

from typing import Any

import jax
from flax import nnx

from pallas_kernels._pytree import pytree
from sparsevdit_jax import VideoGrid


@pytree
class TransformerOutput:
    """The result of one call.

    Attributes:
      sample: what the model predicts, in the layout of its input: a velocity, or the clean video (Tiny).
      states: of the layers' patterns, for the next step. Its structure, shapes and dtypes are those of the `states`
        that went in; () without `attention`.
    """

    sample: jax.Array
    states: tuple[Any, ...]


class Transformer(nnx.Module):
    """A video transformer: called with the family's inputs and `attention`, `states`, `ctx` and `remat`, it returns a
    `TransformerOutput`.

    Attributes:
      config: sizes, with `num_layers`, `num_heads`, `head_dim` and `grid(shape, text_len)`.
    """

    config: Any

    @property
    def num_attention_layers(self) -> int:
        """Layers that take a pattern, in the order in which they run."""
        return self.config.num_layers

    @property
    def num_parameters(self) -> int:
        """Scalars in all weights."""
        return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(self, nnx.Param)))

    def grid(self, shape: tuple[int, ...], text_len: int | None = None) -> VideoGrid:
        """The token sequence that the layers' patterns see.

        Args:
          shape: of the video or latents that the model is called with.
          text_len: tokens of text in that call, padding included; None is the number that the family's pipeline
            passes. A model whose text is not in the sequence (Wan: cross-attention) gives a grid without text for any
            number. A model with a fixed number (Tiny) refuses another.

        Raises:
          ValueError: not such a shape, other channels, an axis that does not divide into patches or is too long, or
            such a `text_len`.
        """
        return self.config.grid(shape, text_len)
