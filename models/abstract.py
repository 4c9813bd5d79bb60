"""Models without weights: shapes and dtypes to plan, check and load with."""

import functools
from typing import Any

from flax import nnx


def without_weights(cls: Any, config: Any, dtype: Any) -> Any:
    """`cls(config)` with shapes and dtypes in place of weights, to be filled: a copy of `planned`."""
    return nnx.clone(planned(cls, config, dtype))


@functools.lru_cache(maxsize=16)
def planned(cls: Any, config: Any, dtype: Any) -> Any:
    """The same to plan with, made once, because it takes a second for the largest: it must not be changed."""
    return nnx.eval_shape(lambda: cls(config, dtype=dtype, rngs=nnx.Rngs(0)))
