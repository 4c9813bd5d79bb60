"""Compiles JAX functions for an H200, down to machine code, on a machine that has no GPU.

    compile_for_h200("tests.experiments.kernel_resources.toys:cases")

The CUDA plugin and ptxas come from the extra `aot`, which `make test` puts into a folder of its own
inside the environment: nothing but this module sees it, so ordinary runs stay as they are.
"""

import dataclasses
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import jax

from experiments.kernel_resources.resources import Resources, parse
from experiments.record import ROOT

Case = tuple[str, Callable[..., Any], tuple[Any, ...]]  # name, function, abstract arguments

VARIABLE = "SPARSEVDIT_AOT"  # a folder that holds the extra `aot`, instead of the environment's


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What became of one case.

    Attributes:
      name: of the case.
      kernels: what its Mosaic kernels take, by name; they may be compiled in any order.
      error: why it does not compile, or None.
      memory: bytes of the program's "argument", "temp", "output" and "alias" (outputs in the place of
        arguments), as XLA has planned them for the device; of whole programs only.
      collectives: what devices exchange in it, by kind; see `collectives.count`.
      seconds: that lowering and compiling took.
    """

    name: str
    kernels: tuple[Resources, ...] = ()
    error: str | None = None
    memory: dict[str, int] | None = None
    collectives: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0

    def faults(self) -> list[str]:
        """Why the case should not be shipped; empty for a sound one."""
        if self.error:
            return [self.error]
        return [f for kernel in self.kernels for f in kernel.faults()] or (
            [] if self.kernels else [f"{self.name} holds no Mosaic kernel"]
        )


def packages() -> list[str]:
    """Folders to put before the import path, so that jax finds its CUDA plugin.

    Raises:
      FileNotFoundError: the plugin or nvdisasm is nowhere; says how to get it.
    """
    folder = Path(os.environ.get(VARIABLE) or Path(sys.prefix, "aot"))
    has_plugin = (folder / "jax_cuda13_plugin").is_dir()
    if not has_plugin and importlib.util.find_spec("jax_cuda13_plugin"):
        return []
    missing = None if has_plugin else "jax_cuda13_plugin"
    if not any((folder / "nvidia").glob("*/bin/nvdisasm")):
        missing = missing or "nvdisasm (of nvidia-cuda-nvdisasm)"
    if missing is None:
        return [str(folder)]
    raise FileNotFoundError(
        f"{folder} holds no {missing}; `make test` installs it, or pip install "
        f"--target FOLDER the packages of the extra `aot` and set {VARIABLE}=FOLDER"
    )


def refuse_old_jax() -> None:
    """Raises NotImplementedError where jax is too old for the kernels."""
    if jax.__version_info__ < (0, 11, 2):
        raise NotImplementedError(f"Mosaic kernels need jax >= 0.11.2; this is {jax.__version__}")


def compile_for_h200(
    cases: str,
    *names: str,
    timeout_s: float = 900,
    dump: bool = True,
    axes: Mapping[str, int] | None = None,
) -> list[Compiled]:
    """Compiles the cases that a function lists, in one fresh process.

    Args:
      cases: "module:function"; the function takes nothing and yields (name, function, arguments),
        arguments being a tuple of pytrees of anything with a shape and a dtype.
      *names: only these cases; all by default.
      timeout_s: for the whole process. A case it cuts off is an error, as are those after it.
      axes: of a mesh of several H200s in one machine, for `parallel.make_mesh`. The function then takes the mesh;
        arguments lie where their `sharding` says, whole on each by default.
      dump: compile the Mosaic kernels of a case, alone, and let the compiler print them; otherwise the whole program,
        with its `Compiled.memory` and `collectives`, but no `kernels`.

    Raises:
      NotImplementedError: this jax is too old for the kernels.
      FileNotFoundError: the extra `aot` is not installed.
      RuntimeError: the process failed outside the cases; holds the end of its output.
    """
    refuse_old_jax()
    path = [*packages(), str(ROOT), os.environ.get("PYTHONPATH", "")]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, path))}
    env["SPARSEVDIT_DUMP"] = str(int(dump))
    env["SPARSEVDIT_AXES"] = json.dumps(dict(axes or {}))
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder, "results.jsonl")
        command = [sys.executable, "-m", "experiments.kernel_resources.worker"]
        command += [cases, str(results), *names]
        try:
            done = subprocess.run(
                command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s
            )
            problem = f"exit {done.returncode} {done.stderr[-2000:]}" if done.returncode else None
        except subprocess.TimeoutExpired:
            problem = f"the compiler took more than {timeout_s} s"
        rows = [json.loads(x) for x in results.read_text().splitlines()] if results.exists() else []
    if problem:
        raise RuntimeError(f"after {[row['name'] for row in rows]}: {problem}")
    return [
        Compiled(row["name"], error=row["error"])
        if "error" in row
        else Compiled(
            row["name"],
            tuple(sorted(parse(row["output"]), key=lambda k: k.name)),
            memory=row.get("memory"),
            collectives=row.get("collectives", {}),
            seconds=row["seconds"],
        )
        for row in rows
    ]


def as_on_hopper(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, traced as on a machine that has the GPU."""

    def run(*arguments):
        hopper = importlib.import_module("pallas_kernels._hopper")
        with mock.patch.object(hopper, "refuse_unless_available"):
            return function(*arguments)

    return run
