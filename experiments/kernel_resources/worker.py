"""Compiles cases for an H200 without one; runs in a process of its own (see `deviceless`).

python -m experiments.kernel_resources.worker MODULE:FUNCTION RESULTS [NAME ...]
"""

import contextlib
import hashlib
import importlib
import importlib.metadata
import json
import math
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

# XLA and Mosaic read these as they are imported. On "cpu" the CUDA plugin asks for no driver.
os.environ["JAX_PLATFORMS"] = "cpu"
# A program that comes from JAX's own cache prints nothing; `kept_row` keeps what was printed beside it.
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "0"
if os.environ.get("SPARSEVDIT_DUMP", "1") == "1":
    os.environ |= {
        f"MOSAIC_GPU_DUMP_{what}": "1" for what in ("PTX", "PTXAS", "SASS_CTRL", "HOST_LLVM")
    }

import jax
from jax.experimental import topologies
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.sharding import NamedSharding, PartitionSpec

from experiments.kernel_resources.collectives import count
from sparsevdit_jax import parallel

DUMP = "MOSAIC_GPU_DUMP_PTX" in os.environ
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
    """Appends one JSON line for each case: name and seconds, then the compiler's output on its kernels, or memory and
    exchanges, or the error.
    """
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
            row: dict = {}
            began = time.perf_counter()
            kept = None
            with captured_stdout() as text:
                try:
                    with jax.set_mesh(mesh):
                        if DUMP:
                            call, arguments = kernels_of(call, arguments)
                        lowered = jax.jit(call).lower(*arguments)
                        kept = kept_row(lowered.as_text())
                        program = None if kept and kept.is_file() else lowered.compile()
                    if program is not None and not DUMP:
                        row = measured(program)
                except Exception as error:  # whatever a kernel does wrong is this case's result
                    row["error"] = f"{type(error).__name__}: {error}"
                    traceback.print_exc()
            if kept and kept.is_file():
                row = json.loads(kept.read_text())
            else:
                row |= {"output": text[0], "seconds": time.perf_counter() - began}
                if kept and "error" not in row:
                    part = kept.with_suffix(f".{os.getpid()}")
                    part.write_text(json.dumps(row))
                    part.replace(kept)
            file.write(json.dumps({"name": name} | row) + "\n")


def kernels_of(call: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Callable, tuple]:
    """The Mosaic kernels that call(*arguments) launches, without what is around them: that takes far longer to compile.

    Returns:
      A function that launches each, and its abstract arguments.
    """
    found: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {}
    make = plgpu.kernel

    def recorded(*how, **settings):
        launch = make(*how, **settings)

        def record(*operands):
            abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), operands)
            found.setdefault(
                f"{settings.get('kernel_name')} {abstract} {settings['out_type']}",
                (launch, abstract),
            )
            return launch(*operands)

        return record

    with mock.patch.object(plgpu, "kernel", recorded):
        jax.eval_shape(call, *arguments)
    launches = [launch for launch, _ in found.values()]
    operands = tuple(abstract for _, abstract in found.values())
    return lambda *given: [run(*x) for run, x in zip(launches, given, strict=True)], operands


def measured(program: jax.stages.Compiled) -> dict:
    """Memory that XLA has planned, and what devices exchange."""
    plan = program.memory_analysis()
    kinds = ("argument", "temp", "output", "alias")
    memory = {what: getattr(plan, f"{what}_size_in_bytes") for what in kinds}
    return {"collectives": count(program.as_text()), "memory": memory}


def kept_row(program: str) -> Path | None:
    """Where JAX's compilation cache, if there is one, keeps what these compilers made of this program."""
    if not (folder := os.environ.get("JAX_COMPILATION_CACHE_DIR")):
        return None
    tools = (
        "jax",
        "jaxlib",
        "jax-cuda13-plugin",
        "jax-cuda13-pjrt",
        "nvidia-cuda-nvcc",
        "nvidia-cuda-nvdisasm",
    )
    versions = [f"{tool} {_version(tool)}" for tool in tools]
    settings = [
        os.environ.get(name, "") for name in ("SPARSEVDIT_DUMP", "SPARSEVDIT_AXES", "XLA_FLAGS")
    ]
    key = "\n".join([*versions, *settings, TARGET.read_text(), program])
    rows = Path(folder, "kernel_resources")
    rows.mkdir(parents=True, exist_ok=True)
    return rows / f"{hashlib.sha256(key.encode()).hexdigest()}.json"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except (
        importlib.metadata.PackageNotFoundError
    ):  # elsewhere on this machine; jax finds it by itself
        return "?"


def _placed(x, whole) -> jax.ShapeDtypeStruct:
    where = x.sharding if isinstance(x, jax.ShapeDtypeStruct) else None
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where or whole)


if __name__ == "__main__":
    main(*sys.argv[1:])
