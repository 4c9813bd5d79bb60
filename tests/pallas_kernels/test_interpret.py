import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import mosaic_gpu as plgpu

from pallas_kernels import _interpret
from tests import mosaic

pytestmark = mosaic.needs_interpreter


def copy_through_smem(x, *, wait=True):
    """Doubles x: one warpgroup reads it by a TMA copy, which it should wait for."""

    def body(x_ref, out_ref, buffer, barrier):
        plgpu.copy_gmem_to_smem(x_ref, buffer, barrier)
        if wait:
            plgpu.barrier_wait(barrier)
        buffer[...] = buffer[...] * np.float32(2)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(buffer, out_ref)
        plgpu.wait_smem_to_gmem(0)

    return plgpu.kernel(
        body,
        out_type=jax.ShapeDtypeStruct(x.shape, x.dtype),
        scratch_types=[plgpu.SMEM(x.shape, x.dtype), plgpu.Barrier()],
        num_threads=1,
        thread_name="wg",
    )(x)


X = jnp.arange(128, dtype=jnp.float32)


def test_is_active_inside_only():
    assert not _interpret.active()
    assert _interpret.run(_interpret.active).results is True
    assert not _interpret.active()


def test_runs_a_kernel_with_and_without_looking_for_races():
    for detect_races in (False, True):
        outcome = _interpret.run(copy_through_smem, X, detect_races=detect_races)
        np.testing.assert_array_equal(outcome.results, 2 * X)
        assert not outcome.races_found


def test_reports_a_race_of_any_kernel():
    def two_kernels(x):
        return copy_through_smem(x, wait=False), copy_through_smem(x)

    assert _interpret.run(two_kernels, X, detect_races=True).races_found


def test_works_after_a_kernel_raised():
    def unobserved(x):
        def body(x_ref, out_ref, barrier):
            plgpu.barrier_arrive(barrier)
            plgpu.barrier_arrive(barrier)

        return plgpu.kernel(
            body,
            out_type=jax.ShapeDtypeStruct(x.shape, x.dtype),
            scratch_types=[plgpu.Barrier()],
            num_threads=1,
            thread_name="wg",
        )(x)

    with pytest.raises(Exception, match="arri"):
        _interpret.run(unobserved, X)
    np.testing.assert_array_equal(_interpret.run(copy_through_smem, X).results, 2 * X)
