"""Models without weights: shapes and dtypes to plan, check and load with."""

import functools
from typing import Any

from flax import nnx


def without_weights(cls: Any, config: Any, dtype: Any) -> Any:
    """`cls(config)` with shapes and dtypes in place of weights, to be filled: a copy of `planned`."""
    return nnx.clone(planned(cls, config, dtype))


@functools.lru_cache(maxsize=16)
def planned(cls: Any, config: Any, dtype: Any) -> Any:
    """The same, made once and shared, because the largest takes a second. Do not change it: it is for planning."""
    return nnx.eval_shape(lambda: cls(config, dtype=dtype, rngs=nnx.Rngs(0)))
