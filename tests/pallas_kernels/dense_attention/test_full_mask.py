import jax.numpy as jnp
import numpy as np

from pallas_kernels.dense_attention._full_mask import full_mask


def test_lengths_of_rows_become_lengths_of_blocks():
    mask = full_mask(300, 128, jnp.array([300, 129], jnp.int32), None)
    assert (mask.num_q_blocks, mask.num_kv_blocks, mask.capacity) == (3, 1, 1)
    np.testing.assert_array_equal(mask.q_lengths[:, 0], [[128, 128, 44], [128, 1, 0]])
    assert mask.kv_lengths is None
    assert float(mask.density()) == 1.0


def test_queries_may_have_blocks_of_their_own_size():
    mask = full_mask(500, 300, jnp.array([400], jnp.int32), jnp.array([130], jnp.int32), 384)
    assert (mask.block_q, mask.num_q_blocks, mask.num_kv_blocks) == (384, 2, 3)
    np.testing.assert_array_equal(mask.q_lengths[0, 0], [384, 16])
    np.testing.assert_array_equal(mask.kv_lengths[0, 0], [128, 2, 0])
