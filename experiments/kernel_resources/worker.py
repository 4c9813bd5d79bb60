"""Compiles cases for an H200 without one; runs in a process of its own (see `deviceless`).

python -m experiments.kernel_resources.worker MODULE:FUNCTION RESULTS [NAME ...]
"""

import contextlib
import importlib
import json
import math
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

# XLA and Mosaic read these as they are imported. On "cpu" the CUDA plugin asks for no driver.
os.environ["JAX_PLATFORMS"] = "cpu"
if os.environ.get("SPARSEVDIT_DUMP", "1") == "1":
    os.environ |= {f"MOSAIC_GPU_DUMP_{what}": "1" for what in ("PTX", "PTXAS", "HOST_LLVM")}

import jax
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

from experiments.kernel_resources.collectives import count
from sparsevdit_jax import parallel

TARGET = Path(__file__).with_name("h200.textproto")


@contextlib.contextmanager
def captured_stdout() -> Iterator[list[str]]:
    """What anything in this process, C++ included, prints; filled when the block ends."""
    text: list[str] = []
    kept = os.dup(1)
    with tempfile.TemporaryFile() as file:
        sys.stdout.flush()
        os.dup2(file.fileno(), 1)
        try:
            yield text
        finally:
            sys.stdout.flush()
            os.dup2(kept, 1)
            os.close(kept)
            file.seek(0)
            text.append(file.read().decode(errors="replace"))


def main(cases: str, results: str, *names: str) -> None:
    """Appends one JSON line for each case: name, compiler's output, memory and seconds, or the error."""
    module, _, function = cases.partition(":")
    axes = json.loads(os.environ.get("SPARSEVDIT_AXES", "{}"))
    topology = topologies.get_topology_desc(
        platform="cuda",
        target_config=TARGET.read_text(),
        topology=f"1x1x{math.prod(axes.values())}",
    )
    mesh = parallel.make_mesh(**axes, devices=topology.devices)
    whole = NamedSharding(mesh, PartitionSpec())
    with Path(results).open("a", buffering=1) as file:
        listed = getattr(importlib.import_module(module), function)
        for name, call, arguments in listed(mesh) if axes else listed():
            if names and name not in names:
                continue
            arguments = jax.tree.map(lambda x: _placed(x, whole), arguments)
            row: dict = {"name": name}
            began = time.perf_counter()
            with captured_stdout() as text:
                try:
                    with jax.set_mesh(mesh):
                        program = jax.jit(call).lower(*arguments).compile()
                    plan = program.memory_analysis()
                    row["collectives"] = count(program.as_text())
                    row["memory"] = {
                        what: getattr(plan, f"{what}_size_in_bytes")
                        for what in ("argument", "temp", "output", "alias")
                    }
                except Exception as error:  # whatever a kernel does wrong is this case's result
                    row["error"] = f"{type(error).__name__}: {error}"
                    traceback.print_exc()
            row |= {"output": text[0], "seconds": time.perf_counter() - began}
            file.write(json.dumps(row) + "\n")


def _placed(x, whole) -> jax.ShapeDtypeStruct:
    where = x.sharding if isinstance(x, jax.ShapeDtypeStruct) else None
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where or whole)


if __name__ == "__main__":
    main(*sys.argv[1:])
