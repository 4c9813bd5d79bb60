"""The mesh's axes, and how arrays are sharded over them."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, PartitionSpec, Sharding

AXES = ("data", "cfg", "seq")
"""Videos, guidance's two rows, and the tokens of a sequence (its heads, while it attends)."""
_BATCH = ("cfg", "data")  # guidance stacks its rows outside the videos


def make_mesh(
    *, data: int = 1, cfg: int = 1, seq: int = 1, devices: Sequence[Any] | None = None
) -> Mesh:
    """A mesh for `jax.set_mesh`, with the axes that attention knows.

    Neighbours on `seq` are neighbours in `devices`, so that the axis with the most traffic stays
    inside a machine.

    Args:
      data: devices over which the videos of a batch are sharded.
      cfg: 2 puts the two rows of classifier-free guidance on different devices; they never meet in the model.
      seq: devices over which the tokens of a sequence are sharded.
      devices: data x cfg x seq of them; the first ones of `jax.devices()` by default.

    Raises:
      ValueError: an axis is not positive, or there are too few devices or others than asked for.
    """
    shape = dict(zip(AXES, (data, cfg, seq), strict=True))
    count = data * cfg * seq
    if min(shape.values()) < 1:
        raise ValueError(f"axes {shape} must be positive numbers of devices")
    if devices is None and len(jax.devices()) < count:
        raise ValueError(
            f"axes {shape} need {count} devices, but JAX has {len(jax.devices())}; make an axis "
            "smaller, or start more processes (jax.distributed)"
        )
    devices = list(jax.devices()[:count] if devices is None else devices)
    if len(devices) != count:
        raise ValueError(f"axes {shape} need {count} devices, but devices= has {len(devices)}")
    grid = np.asarray(devices, object).reshape(data, cfg, seq)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


@dataclasses.dataclass(frozen=True)
class Shards:
    """How the present mesh shards sequences.

    Attributes:
      rows: devices over which batch rows are sharded.
      tokens: devices over which tokens are sharded, n.
    """

    rows: int
    tokens: int

    def check_rows(self, batch: int) -> None:
        """ValueError unless every device gets as many of `batch` rows."""
        if batch % self.rows:
            raise ValueError(
                f"{batch} batch rows cannot be sharded evenly over the {self.rows} devices of the "
                f"mesh's axes {_BATCH}; give as many rows to each, or make those axes smaller"
            )

    def uses_ring(self, heads: int) -> bool:
        """Whether attention of `heads` heads runs as a ring: only with fewer heads than devices.

        All-to-alls move 4 L H D / n numbers through a device (q, k, v and the output). A ring moves
        2 L H D / n in each of up to n - 1 hops. So all-to-alls win wherever every device gets a
        head. With fewer heads some devices would be idle.
        """
        return heads < self.tokens


def current() -> Shards | None:
    """The mesh that `jax.set_mesh` has set; None without one, and inside of `jax.shard_map`.

    Raises:
      ValueError: the mesh's axes have explicit types.
    """
    mesh = jax.sharding.get_abstract_mesh()
    types = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    types = {name: types[name] for name in AXES if name in types}
    if not types or AxisType.Manual in types.values():
        return None
    if AxisType.Explicit in types.values():
        raise ValueError(
            f"the mesh has axes of explicit types, {types}; attention needs AxisType.Auto, which "
            "is what sparsevdit_jax.parallel.make_mesh gives"
        )
    sizes = mesh.shape
    rows = int(np.prod([sizes.get(name, 1) for name in _BATCH]))
    shards = Shards(rows, sizes.get("seq", 1))
    return shards if shards.rows * shards.tokens > 1 else None


def spec(ndim: int, *, rows: int | None = 0, tokens: int | None = None) -> PartitionSpec:
    """Axis `rows` of an array over `cfg` and `data`, axis `tokens` over `seq`; None: over neither."""
    names = jax.sharding.get_abstract_mesh().axis_names
    axes: list[Any] = [None] * ndim
    if rows is not None:
        axes[rows] = tuple(name for name in _BATCH if name in names) or None
    if tokens is not None:
        axes[tokens] = "seq" if "seq" in names else None
    return PartitionSpec(*axes)


def row_axes() -> tuple[str, ...]:
    """Inside of `jax.shard_map`: the axes over which batch rows are sharded; none elsewhere."""
    mesh = jax.sharding.get_abstract_mesh()
    types = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    return tuple(
        name for name in _BATCH if types.get(name) == AxisType.Manual and mesh.shape[name] > 1
    )


def held_by(x: jax.Array, distance: int, n: int) -> jax.Array:
    """Under `jax.shard_map`: what the device at a distance on `seq` holds, around the ring of n."""
    if not distance:
        return x
    return jax.lax.ppermute(x, "seq", [((i + distance) % n, i) for i in range(n)])


def spread_tokens(x: jax.Array) -> jax.Array:
    """`x` [B, L, ...] with its rows and tokens sharded over the mesh; `x` itself without a mesh.

    L need not divide: the last devices then have fewer tokens.
    """
    shards = current()
    if shards is None or not isinstance(x, jax.core.Tracer):
        return x
    shards.check_rows(x.shape[0])
    return jax.lax.with_sharding_constraint(x, spec(x.ndim, tokens=1))


def whole(tree: Any) -> Any:
    """The tree with every array replicated, as a block needs its weights; itself without a mesh."""
    if current() is None:
        return tree
    return jax.lax.with_sharding_constraint(tree, PartitionSpec())


def head_spec(shape: Sequence[int]) -> PartitionSpec:
    """How an array [B, H, ...] of a pattern's state is sharded; scalars, and axes that do not divide,
    are replicated.
    """
    shards = current()
    if shards is None or len(shape) < 2 or shape[1] % shards.tokens or shape[0] % shards.rows:
        return PartitionSpec()
    return spec(len(shape), tokens=1)


def put(a: Any, sharding: Sharding) -> jax.Array:
    """`jax.device_put` for several hosts: one global array of `a`, which every process holds.

    `jax.device_put` itself would send the values of every host to every other host, to compare them.
    """
    if sharding.is_fully_addressable or not getattr(a, "is_fully_addressable", True):
        return jax.device_put(a, sharding)
    if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
        data, kind = put(jax.random.key_data(a), sharding), jax.random.key_impl(a)
        return jax.random.wrap_key_data(data, impl=kind)
    a = np.asarray(a)
    return jax.make_array_from_callback(a.shape, sharding, lambda part: np.array(a[part]))
