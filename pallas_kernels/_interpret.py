"""JAX's interpreter of Mosaic GPU kernels. Only this module touches it, because its report is private in JAX.

The interpreter runs a kernel on the CPU with simulated shared memory, barriers and copies, and can
report unordered accesses. It runs every line of our kernels but two kinds of product (`wgmma` with
an operand or an initial accumulator in registers); a kernel asks `active()` and swaps only those.
Needs jax >= 0.11.2, and a pool of threads in which all simulated warps can wait at once: JAX's has
one for each core, or NPROC of them if that is set in the environment before JAX's first work.
"""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from unittest import mock

import jax
import numpy as np

_THREADS = 16  # four consumers or copiers, four warps, and the program around them, with slack


class Outcome(NamedTuple):
    """What an interpreted call gave."""

    results: Any
    races_found: bool  # always False unless races were looked for


def active() -> bool:
    """Whether Mosaic GPU kernels that are traced now will be interpreted; part of jit's key."""
    return getattr(_config(), "value", None) is not None


def run(f: Callable[..., Any], *args: Any, detect_races: bool = False, **kwargs: Any) -> Outcome:
    """Calls `f(*args, **kwargs)` with its Mosaic GPU kernels interpreted, and waits for the end.

    Raises:
      NotImplementedError: JAX is too old to have the interpreter.
      RuntimeError: JAX has too few threads, so that kernels could hang; set NPROC.
      Exception: whatever a kernel raises, such as reading out of range or leaving a completed
        barrier unobserved. A kernel that deadlocks never returns.
    """
    from jax.experimental.pallas import mosaic_gpu as plgpu

    if not hasattr(plgpu, "InterpretGPUParams"):
        raise NotImplementedError(
            f"Mosaic GPU kernels are interpreted by jax >= 0.11.2; this is {jax.__version__}"
        )
    threads = int(os.environ.get("NPROC") or os.cpu_count() or 1)
    if threads < _THREADS:
        raise RuntimeError(
            f"interpreted warps would wait for each other in a pool of {threads} threads; set "
            f"NPROC={_THREADS} in the environment before JAX starts"
        )
    names = {field.name for field in dataclasses.fields(plgpu.InterpretGPUParams)}
    # From jax 0.12 on a race ends a kernel unless this is said; before, none could.
    on_race: dict[str, Any] = {"on_race": "warn"} if "on_race" in names else {}
    params = plgpu.InterpretGPUParams(detect_races=detect_races, **on_race)
    force = plgpu.force_gpu_interpret_mode(params)
    with _recorded_races() as races, _numpy_in_callbacks(), force:
        results = jax.block_until_ready(f(*args, **kwargs))
    return Outcome(results, any(state.races_found for state in races))


def _config():
    from jax._src import config

    return getattr(config, "pallas_tpu_interpret_mode_context_manager", None)


@contextlib.contextmanager
def _numpy_in_callbacks() -> Iterator[None]:
    """Hands NumPy arrays to the interpreter's callbacks, of which a kernel makes thousands.

    JAX makes arrays of its own of them, and the interpreter's every index into one is an operation that JAX
    dispatches: three quarters of a kernel's time. A JAX that does it otherwise is left alone.
    """
    from jax._src import callback as jax_callback
    from jax._src.pallas.mosaic_gpu.interpret import shared_memory

    to_int = getattr(shared_memory, "_to_int", None)
    if to_int is None or not hasattr(jax_callback, "io_callback_impl"):
        yield
        return

    def call(*args, callback, **_):
        return [np.asarray(x) for x in callback(*(np.array(x) for x in args))]

    def number(x):
        return int(x) if isinstance(x, np.ndarray) else to_int(x)

    with (
        mock.patch.object(jax_callback, "io_callback_impl", call),
        mock.patch.object(shared_memory, "_to_int", number),
    ):
        yield


@contextlib.contextmanager
def _recorded_races() -> Iterator[list[Any]]:
    """Collects the detectors of all kernels that run inside; JAX keeps only the last one."""
    from jax._src.pallas.mosaic_gpu.interpret import gpu_callbacks as module

    gpu_callbacks: Any = module
    detector, states = gpu_callbacks.GPURaceDetectionState, []

    def recorded(*args, **kwargs):
        states.append(detector(*args, **kwargs))
        return states[-1]

    gpu_callbacks.reset_gpu_interpret_mode_state()  # a kernel that raised leaves its state behind
    gpu_callbacks.GPURaceDetectionState = recorded
    try:
        yield states
    finally:
        gpu_callbacks.GPURaceDetectionState = detector
