"""What the Mosaic GPU kernels share: where they run, the limits of Hopper, constants."""

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from . import _interpret

NUM_SMS = 132  # of an H100 SXM or H200; kernels take it as an argument and never ask a device
SMEM_BYTES = 232_448  # shared memory that one thread block may use (227 KiB)
TILE = 64  # rows of a wgmma, hence of one warpgroup's tile
LOG2E = math.log2(math.e)
LN2 = math.log(2.0)
HEAD_DIMS = (64, 128)
DTYPES = (jnp.dtype("bfloat16"), jnp.dtype("float16"))
_MIN_JAX = (0, 11, 2)
_ALIGNMENT = 1024  # of every buffer in shared memory


def in_32_bits(launch: Callable) -> Callable:
    """`launch`, traced as without JAX_ENABLE_X64: Mosaic has no 64-bit integers, and kernels count in
    Python's numbers.
    """

    @functools.wraps(launch)
    def narrow(*args, **kwargs):
        with jax.enable_x64(False):
            return launch(*args, **kwargs)

    return narrow


def refuse_unless_available() -> None:
    """Passes on a Hopper GPU with a new enough jax, and in the interpreter.

    Raises:
      NotImplementedError: says what is needed and what is there.
    """
    if jax.__version_info__[:3] < _MIN_JAX:
        raise NotImplementedError(
            f"mosaic_gpu needs jax >= {'.'.join(map(str, _MIN_JAX))}; this is {jax.__version__}"
        )
    if _interpret.active():
        return
    if jax.default_backend() != "gpu":
        raise NotImplementedError(
            f"mosaic_gpu needs a Hopper GPU; this process runs on {jax.default_backend()}"
        )
    device = jax.devices()[0]
    if str(getattr(device, "compute_capability", None)) != "9.0":
        raise NotImplementedError(
            f"mosaic_gpu needs a Hopper GPU (compute capability 9.0); this is {device.device_kind}"
        )


def refuse_unless_supported(q: jax.Array) -> None:
    """Passes for 16-bit [B, L, H, D] with a head dim that the kernels have tiles for.

    Raises:
      NotImplementedError: says which dtypes and head dims there are.
    """
    if q.dtype not in DTYPES:
        raise NotImplementedError(f"mosaic_gpu takes bfloat16 and float16, not {q.dtype}")
    if q.shape[-1] not in HEAD_DIMS:
        raise NotImplementedError(
            f"mosaic_gpu has tiles for head dims {HEAD_DIMS}, not {q.shape[-1]}"
        )


def refuse_misfit(config: Any, head_dim: int) -> None:
    """Passes for a configuration that can run: no deadlock, and no more than there is on the chip.

    Raises:
      ValueError: too few stages, or too much shared memory; says what to change.
    """
    if config.stages < 2:
        raise ValueError(f"{config} would deadlock; it needs at least 2 stages")
    if (size := config.smem_bytes(head_dim)) > SMEM_BYTES:
        raise ValueError(
            f"{config} needs {size} bytes of shared memory for head dim {head_dim}; there are "
            f"{SMEM_BYTES}; use fewer stages or smaller tiles"
        )


def smem_bytes(buffers: Iterable[tuple[tuple[int, ...], jnp.dtype]]) -> int:
    """Shared memory taken by buffers of (shape, dtype), each of which starts on a 1,024th byte."""
    sizes = (int(np.prod(shape)) * jnp.dtype(dtype).itemsize for shape, dtype in buffers)
    return sum(-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes)


def smem(shape: tuple[int, ...], dtype: jnp.dtype):
    """Shared memory for tiles [..., rows, columns] as TMA writes them and wgmma reads them.

    Rows are 128 bytes wide at least: 64 columns of 16 bits.
    """
    from jax.experimental.pallas import mosaic_gpu as plgpu

    columns = 128 // jnp.dtype(dtype).itemsize
    transforms = (plgpu.TilingTransform((8, columns)), plgpu.SwizzleTransform(128))
    return plgpu.SMEM(shape, dtype, transforms=transforms)


def compiler_params():
    """What every kernel is compiled with.

    No scratch memory for sums over the warps of a warpgroup, without which they do not compile: Mosaic
    gives all warpgroups of a kernel the same, and they would write over each other's numbers.
    """
    from jax.experimental.pallas import mosaic_gpu as plgpu

    return plgpu.CompilerParams(approx_math=True, reduction_scratch_bytes=0)


class Barriers:
    """Those of a kernel's scratch memory. A test may leave a wait or an arrival out by its name."""

    def __init__(self, scratch: Any, without: str):
        self._scratch, self._without = scratch, without

    def wait(self, name: str, index):
        """For a completion."""
        from jax.experimental.pallas import mosaic_gpu as plgpu

        if self._without != f"{name} wait":
            plgpu.barrier_wait(getattr(self._scratch, name).at[index])

    def arrive(self, name: str, index):
        """Of this warpgroup or warp."""
        from jax.experimental.pallas import mosaic_gpu as plgpu

        if self._without != f"{name} arrive":
            plgpu.barrier_arrive(getattr(self._scratch, name).at[index])
