"""Small Mosaic kernels with known faults, for `deviceless`; imported where jax >= 0.11.2 only."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

ROWS, DEPTH = 64, 64


def product(a, b, *, columns: int, buffers: int = 1, extra: int = 0):
    """`buffers` products a b of ROWS x DEPTH x columns, kept in registers all at once, and added."""
    tiled = (plgpu.TilingTransform((8, 64)), plgpu.SwizzleTransform(128))

    def body(a_gmem, b_gmem, out_gmem, a_smem, b_smem, out_smem, barrier, *_):
        plgpu.copy_gmem_to_smem(a_gmem, a_smem, barrier.at[0])
        plgpu.copy_gmem_to_smem(b_gmem, b_smem, barrier.at[1])
        plgpu.barrier_wait(barrier.at[0])
        plgpu.barrier_wait(barrier.at[1])

        def multiply(*accumulators):
            for accumulator in accumulators:
                plgpu.wgmma(accumulator, a_smem, b_smem)
            plgpu.wgmma_wait(0)
            return [accumulator[...] for accumulator in accumulators]

        shapes = [plgpu.ACC((ROWS, columns), jnp.float32) for _ in range(buffers)]
        parts = pl.run_scoped(multiply, *shapes)
        out_smem[...] = sum(parts[1:], parts[0]).astype(a.dtype)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(out_smem, out_gmem)
        plgpu.wait_smem_to_gmem(0)

    return plgpu.kernel(
        body,
        out_type=jax.ShapeDtypeStruct((ROWS, columns), a.dtype),
        scratch_types=[
            plgpu.SMEM((ROWS, DEPTH), a.dtype, transforms=tiled),
            plgpu.SMEM((DEPTH, columns), a.dtype, transforms=tiled),
            plgpu.SMEM((ROWS, columns), a.dtype, transforms=tiled),
            plgpu.Barrier(num_barriers=2),
            *([plgpu.SMEM((extra,), jnp.int8)] if extra else []),
        ],
        grid=(1,),
        grid_names=("one",),
    )(a, b)


def copy(a, b):
    """A kernel that has neither wgmma nor TMA."""

    del b

    def body(a_gmem, out_gmem):
        index = lax.axis_index("one")
        out_gmem[index] = a_gmem[index]

    return plgpu.kernel(
        body,
        out_type=jax.ShapeDtypeStruct(a.shape[:1], a.dtype),
        grid=(1,),
        grid_names=("one",),
    )(a[:, 0])


def two_products(a, b):
    """Two kernels in one program."""
    return product(a, b[:, :64], columns=64), product(a, b, columns=128)


def cases():
    """(name, function, arguments) of each toy."""

    def arguments(columns):
        return tuple(
            jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in ((ROWS, DEPTH), (DEPTH, columns))
        )

    yield "sound", lambda a, b: product(a, b, columns=64), arguments(64)
    yield "spills", lambda a, b: product(a, b, columns=256, buffers=2), arguments(256)
    yield "too_large", lambda a, b: product(a, b, columns=64, extra=230_000), arguments(64)
    yield "plain_copy", copy, arguments(64)
    yield "two", two_products, arguments(128)
    yield "no_kernel", jnp.dot, arguments(64)
