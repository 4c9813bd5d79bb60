import functools

import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import BlockMask, _triton_call, block_sparse_attention
from pallas_kernels.block_sparse_attention import triton
from tests import triton_interpreter, undropped
from tests.conformance.op_suite import BlockSparseAttentionSuite


class TestTriton(BlockSparseAttentionSuite):
    implementation = "triton"

    @pytest.fixture(autouse=True)
    def _interpreted(self):
        with _triton_call.use(triton_interpreter.launch):
            yield

    def test_scale_zero_is_a_mean(self):
        lengths = np.array([[[8, 3]]], np.int32)
        mask = BlockMask.full(1, 2, block_q=8, block_kv=8, kv_lengths=lengths)
        x = jnp.arange(16.0).reshape(1, 16, 1, 1)
        out, lse = block_sparse_attention(x[:, :8], x, x, mask, scale=0.0, implementation="triton")
        np.testing.assert_allclose(out, np.full((1, 8, 1, 1), np.arange(11).mean()), rtol=1e-6)
        np.testing.assert_allclose(lse, np.full((1, 1, 8), np.log(11)), rtol=1e-6)

    def test_leaving_padding_out_changes_no_bit(self):
        *arrays, mask = undropped.problem(24, 192, jnp.float32, heads=1, head_dim=16)
        attend = functools.partial(block_sparse_attention, implementation="triton")
        got = undropped.everything(attend)(*arrays, mask)
        with undropped.lists():
            expected = undropped.everything(attend)(*arrays, mask)
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_array_equal(a, b)
            assert jnp.abs(a).max() > 0

    def test_refuses_wide_heads(self):
        x = jnp.zeros((1, 8, 1, 257))
        mask = BlockMask.full(1, 1, block_q=8, block_kv=8)
        with pytest.raises(NotImplementedError, match="head dims up to 256, not 257"):
            block_sparse_attention(x, x, x, mask, implementation="triton")


def test_refuses_a_machine_without_a_gpu():
    x = jnp.zeros((1, 8, 1, 8))
    mask = BlockMask.full(1, 1, block_q=8, block_kv=8)
    with pytest.raises(NotImplementedError, match="needs a GPU"):
        block_sparse_attention(x, x, x, mask, implementation="triton")


@pytest.mark.parametrize(
    ("block", "largest", "tile"),
    [(1, 128, 16), (16, 128, 16), (48, 128, 64), (64, 128, 64), (192, 128, 64), (256, 128, 128),
     (384, 128, 128), (64, 32, 32), (300, 64, 64)],
)  # fmt: skip
def test_tiles_cover_a_block_with_little_waste(block, largest, tile):
    assert triton._fit(block, largest) == tile
