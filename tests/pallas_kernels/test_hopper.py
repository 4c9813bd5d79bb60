import functools

import jax
import jax.numpy as jnp
import pytest

from pallas_kernels import _hopper, _interpret
from tests import mosaic


class FakeDevice:
    device_kind = "NVIDIA A100"
    compute_capability = "8.0"


@pytest.fixture
def new_enough(monkeypatch):
    monkeypatch.setattr(jax, "__version_info__", (0, 11, 2))


def test_refuses_a_cpu(new_enough):
    with pytest.raises(NotImplementedError, match="Hopper GPU; this process runs on cpu"):
        _hopper.refuse_unless_available()


def test_refuses_another_gpu(new_enough, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "devices", lambda: [FakeDevice()])
    with pytest.raises(NotImplementedError, match=r"capability 9\.0\); this is NVIDIA A100"):
        _hopper.refuse_unless_available()


def test_refuses_an_old_jax(monkeypatch):
    monkeypatch.setattr(jax, "__version_info__", (0, 10, 2))
    monkeypatch.setattr(jax, "__version__", "0.10.2")
    with pytest.raises(NotImplementedError, match=r"needs jax >= 0\.11\.2; this is 0\.10\.2"):
        _hopper.refuse_unless_available()


@mosaic.needs_interpreter
def test_the_interpreter_stands_in_for_a_gpu(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    inside, _ = _interpret.run(lambda: (_interpret.active(), _hopper.refuse_unless_available()))
    assert inside == (True, None)
    with pytest.raises(NotImplementedError, match="needs a Hopper GPU"):
        _hopper.refuse_unless_available()


@pytest.mark.parametrize(
    ("dtype", "head_dim", "reason"),
    [("float32", 64, "not float32"), ("bfloat16", 80, r"\(64, 128\), not 80")],
)
def test_refuses_other_dtypes_and_head_dims(dtype, head_dim, reason):
    with pytest.raises(NotImplementedError, match=reason):
        _hopper.refuse_unless_supported(jnp.zeros((1, 8, 1, head_dim), dtype))


def test_takes_both_16_bit_types():
    for dtype in ("bfloat16", "float16"):
        for head_dim in _hopper.HEAD_DIMS:
            q = jnp.zeros((1, 8, 1, head_dim), dtype)
            assert _hopper.refuse_unless_supported(q) is None


def test_every_buffer_starts_aligned():
    one, large = ((1,), jnp.dtype("float32")), ((2, 128, 64), jnp.dtype("bfloat16"))
    assert _hopper.smem_bytes([one, one]) == 2048
    assert _hopper.smem_bytes([large]) == 2 * 128 * 64 * 2


def test_tiles_are_swizzled_rows_of_128_bytes():
    tiling, swizzle = _hopper.smem((2, 64, 128), jnp.dtype("bfloat16")).transforms
    assert tiling.tiling == (8, 64)
    assert swizzle.swizzle == 128


def test_no_kernel_sums_over_the_warps_of_a_warpgroup():
    """Two warpgroups would do so in the same scratch memory at once."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import mosaic_gpu as plgpu

    def call(axis, x):
        def body(x_ref, out_ref):
            x = plgpu.load(x_ref.at[pl.ds(0, 64)], layout=plgpu.Layout.WGMMA, optimized=False)
            out_ref[...] = x.sum(axis=axis)

        out_type = jax.ShapeDtypeStruct((x.shape[1 - axis],), x.dtype)
        parameters = _hopper.compiler_params()
        return plgpu.kernel(body, out_type=out_type, compiler_params=parameters)(x)

    x = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    assert mosaic.lower_for_cuda(functools.partial(call, 1), x)
    with pytest.raises(ValueError, match="scratch"):
        mosaic.lower_for_cuda(functools.partial(call, 0), x)
