"""What every video transformer returns, whatever its family and whether it attends densely or by patterns."""

from typing import Any

import jax

from pallas_kernels._pytree import pytree


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
