"""Weights sharded over the devices of a mesh, for models that are too large for one device.

    mesh = parallel.make_mesh(cfg=2, seq=4)
    model = models.load_transformer(folder, dtype=jnp.bfloat16, sharding=fully_sharded(mesh))

Each device holds a part of every matrix, and a block's weights are all-gathered when the block runs
(`models.stack.run_blocks`), as in FSDP and ZeRO-3 (arXiv 1910.02054). Annotations do all of it.
"""

import math
from collections.abc import Callable

from jax.sharding import Mesh, NamedSharding, PartitionSpec

SMALLEST = 2**16
"""A tensor of fewer scalars is not worth a message and is replicated."""


def fully_sharded(mesh: Mesh) -> Callable[[str, tuple[int, ...]], NamedSharding]:
    """A placement for ``load_transformer(..., sharding=)``: every large tensor over all devices of `mesh`.

    A tensor is sharded along its longest axis that the number of devices divides. A tensor without such an axis is
    replicated.
    """
    axes, count = tuple(mesh.axis_names), math.prod(mesh.shape.values())

    def place(name: str, shape: tuple[int, ...]) -> NamedSharding:
        del name
        fitting = [i for i, size in enumerate(shape) if size % count == 0]
        if math.prod(shape) < SMALLEST or not fitting:
            return NamedSharding(mesh, PartitionSpec())
        longest = max(fitting, key=lambda i: shape[i])
        return NamedSharding(mesh, PartitionSpec(*[None] * longest, axes))

    return place
