"""Weights spread over the devices of a mesh, for models that are too large for one (or waste eight).

    mesh = parallel.make_mesh(cfg=2, seq=4)
    model = models.load_transformer(folder, dtype=jnp.bfloat16, sharding=fully_sharded(mesh))

Each device holds its part of every matrix; a block's weights are gathered as the block runs
(`models.stack.run_blocks`), as in FSDP and ZeRO-3 (arXiv 1910.02054), by annotation alone.
"""

import math
from collections.abc import Callable

from jax.sharding import Mesh, NamedSharding, PartitionSpec

SMALLEST = 2**16
"""Scalars below which a tensor is not worth a message; it lies whole on every device."""


def fully_sharded(mesh: Mesh) -> Callable[[str, tuple[int, ...]], NamedSharding]:
    """A placement for ``load_transformer(..., sharding=)``: every large tensor over all devices of `mesh`.

    A tensor is cut along its longest axis that divides by the number of devices; one without such an axis lies
    whole on every device.
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
