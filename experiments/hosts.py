"""A run on several hosts: one process on each, the same command everywhere, `--distributed`.

    JAX_COORDINATOR_ADDRESS=host0:1234 JAX_NUM_PROCESSES=2 JAX_PROCESS_ID=0 python -m experiments.generate \\
        --distributed --cfg 2 --seq 8 ...

Every process reads and computes. The first alone prints, draws progress and writes files, into a folder that all
of them see. Without `--distributed` the one process is the first, and everything here does nothing.
"""

import contextlib
import os
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sparsevdit_jax.parallel import make_mesh, put

_NUMBERS = {"num_processes": "JAX_NUM_PROCESSES", "process_id": "JAX_PROCESS_ID"}


def start(distributed: bool) -> None:
    """Joins the other processes of the run; call it before anything else asks JAX for its devices.

    The addresses are JAX's matter: those of a cluster that `jax.distributed.initialize` knows (Slurm, Open MPI,
    Kubernetes, Cloud TPU), or the environment's JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID.

    Raises:
      ValueError: neither says where the others are.
    """
    if not distributed or jax.distributed.is_initialized():
        return
    given = {argument: os.environ.get(name) for argument, name in _NUMBERS.items()}
    try:  # JAX reads the address itself, but not the two numbers
        numbers = {argument: int(text) for argument, text in given.items() if text is not None}
        jax.distributed.initialize(**numbers)
    except ValueError as problem:
        names = ("JAX_COORDINATOR_ADDRESS", *_NUMBERS.values())
        there = ", ".join(f"{name}={os.environ.get(name, '')!r}" for name in names)
        raise ValueError(
            f"--distributed: the environment ({there}) does not say where the processes are ({problem}); set "
            "JAX_COORDINATOR_ADDRESS=HOST:PORT of the first, JAX_NUM_PROCESSES, and JAX_PROCESS_ID from 0, or start "
            "them with Slurm or Open MPI"
        ) from problem


def is_first() -> bool:
    """Whether this process is the one that prints and writes."""
    return jax.process_index() == 0


def say(text: str) -> None:
    """Prints on the first process."""
    if is_first():
        print(text, flush=True)


def barrier(name: str) -> None:
    """Waits until every process is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def mesh_of(*, distributed: bool, **axes: int) -> Mesh | None:
    """The mesh that flags ask for; None where they ask for one device.

    Raises:
      ValueError: there are fewer devices, or, of several processes, others than asked for.
    """
    count, flags = (
        int(np.prod(list(axes.values()))),
        " ".join(f"--{k} {v}" for k, v in axes.items()),
    )
    if distributed and count != jax.device_count():
        raise ValueError(
            f"{flags} makes {count} devices, but with --distributed it must use all {jax.device_count()} of the "
            f"{jax.process_count()} processes; choose axes whose product is {jax.device_count()}"
        )
    return make_mesh(**axes) if distributed or count != 1 else None


def on(mesh: Mesh | None) -> contextlib.AbstractContextManager:
    """`jax.set_mesh` where there is a mesh."""
    return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)


def from_first(tree: Any) -> Any:
    """The first process's arrays on all of them: hosts whose compilers chose differently agree on the last bits."""
    return multihost_utils.broadcast_one_to_all(tree) if jax.process_count() > 1 else tree


def agree(number: int, what: str) -> None:
    """ValueError unless every process has the same number."""
    if jax.process_count() == 1:
        return
    numbers = multihost_utils.process_allgather(np.int32(number)).tolist()
    if len(set(numbers)) > 1:
        raise ValueError(
            f"{what} is {numbers} on processes 0 to {len(numbers) - 1}, but must be one; put the run's files where "
            "all hosts see them, and give every process the same flags"
        )


def to_host(array: jax.Array) -> np.ndarray:
    """All of an array that lies on the devices of many processes, each of which must call this."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return multihost_utils.process_allgather(array, tiled=True)


def here(tree: Any) -> Any:
    """Arrays that lie whole on every device, as this process's first device has them; copies nothing."""
    return jax.tree.map(lambda a: a.addressable_data(0), tree)


def on_every(tree: Any, mesh: Mesh | None) -> Any:
    """Arrays that every process has, whole on every device of the mesh."""
    return _spread(tree, mesh, PartitionSpec())


def by_rows(tree: Any, mesh: Mesh | None) -> Any:
    """Arrays that every process has, their rows over the mesh's axis `data`."""
    return _spread(tree, mesh, PartitionSpec("data"))


def _spread(tree, mesh, spec):
    if mesh is None:
        return tree
    return jax.tree.map(lambda a: put(a, NamedSharding(mesh, spec)), tree)
