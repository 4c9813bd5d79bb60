"""Triton kernels called from JAX: where they run, through which jax_triton, and under vmap."""

import contextlib
import contextvars
import functools
import importlib.util
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

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


def merge_vmap(function: Callable[..., Any]) -> Callable[..., Any]:
    """function(data, lists), both tuples of arrays with the batch first, made fit for vmap.

    Arrays in `data` and all results have the same batch B, those in `lists` B or 1. An axis that
    vmap adds is merged into the batch.
    """
    batched = jax.custom_batching.custom_vmap(function)

    @batched.def_vmap
    def rule(size, in_batched, data, lists):
        batch = data[0].shape[1 if in_batched[0][0] else 0]

        def merge(x, is_batched):
            x = x if is_batched else x[None]
            x = jnp.broadcast_to(x, (size, batch, *x.shape[2:]))
            return x.reshape(size * batch, *x.shape[2:])

        data = tuple(map(merge, data, in_batched[0]))
        lists = tuple(
            x if not is_batched and x.shape[0] == 1 else merge(x, is_batched)
            for x, is_batched in zip(lists, in_batched[1], strict=True)
        )
        results = batched(data, lists)
        split = functools.partial(jax.tree.map, lambda x: x.reshape(size, batch, *x.shape[1:]))
        return split(results), jax.tree.map(lambda _: True, results)

    return batched
