"""Triton kernels called from JAX: where they run and through which jax_triton."""

import contextlib
import contextvars
import importlib.util
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

Launcher = Callable[..., Sequence[jax.Array]]
_LOWEST_CAPABILITY = 8.0  # bfloat16 and asynchronous copies
_LAUNCHER: contextvars.ContextVar[Launcher | None] = contextvars.ContextVar(
    "triton_launcher", default=None
)


def refuse_unless_available() -> None:
    """Passes where Triton kernels can run, and inside `use`.

    Raises:
      NotImplementedError: says what is needed and what is there.
    """
    if _LAUNCHER.get() is not None:
        return
    if jax.default_backend() != "gpu":
        raise NotImplementedError(
            f"triton needs a GPU; this process runs on {jax.default_backend()}"
        )
    missing = [name for name in ("jax_triton", "triton") if not importlib.util.find_spec(name)]
    if missing:
        raise NotImplementedError(
            f"triton needs {' and '.join(missing)}: pip install 'sparsevdit-jax[triton]'"
        )
    device = jax.devices()[0]
    capability = str(getattr(device, "compute_capability", ""))
    if capability[:1].isdigit() and float(capability) < _LOWEST_CAPABILITY:  # AMD's are names
        raise NotImplementedError(
            f"triton needs a GPU of compute capability {_LOWEST_CAPABILITY} or higher; "
            f"{device.device_kind} has {capability}"
        )


@contextlib.contextmanager
def use(launcher: Launcher) -> Iterator[None]:
    """What is traced inside launches its kernels through `launcher`, on any machine.

    `functools.partial(launch, compute_capability=90)` compiles for a GPU that is not there.
    """
    token = _LAUNCHER.set(launcher)
    try:
        yield
    finally:
        _LAUNCHER.reset(token)


def call(
    kernel: Any,
    arrays: Sequence[jax.Array],
    numbers: Sequence[int],
    *,
    out: Sequence[jax.ShapeDtypeStruct],
    grid: tuple[int, int, int],
    num_warps: int,
    num_stages: int,
    constants: dict[str, Any],
) -> Sequence[jax.Array]:
    """Runs a Triton kernel.

    Args:
      kernel: takes pointers to `arrays`, then `numbers`, pointers to `out`, and `constants`.
      arrays: inputs, dense and row-major as JAX keeps them.
      numbers: integers that do not specialise the kernel.
      out: what the kernel writes, in full.
      grid: programs along each axis.
      num_warps: warps of a program.
      num_stages: loads in flight of a pipelined loop, plus one.
      constants: compile-time arguments by name.
    """
    return (_LAUNCHER.get() or launch)(
        kernel,
        arrays,
        numbers,
        out=out,
        grid=grid,
        num_warps=num_warps,
        num_stages=num_stages,
        constants=constants,
    )


def launch(kernel, arrays, numbers, *, out, constants, **options) -> Sequence[jax.Array]:
    """`call` through jax_triton, whose 0.4 renamed an argument of 0.3."""
    import jax_triton

    triton_call: Any = jax_triton.triton_call  # its arguments differ by version
    parameters = inspect.signature(triton_call).parameters
    results = {"out_type" if "out_type" in parameters else "out_shape": tuple(out)}
    return triton_call(*arrays, *numbers, kernel=kernel, **results, **options, **constants)
