import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from pallas_kernels import BlockMask, block_sparse_attention
from tests.conformance.op_suite import Case

Q = jnp.zeros((1, 16, 2, 4))
MASK = BlockMask.full(2, 2, block_q=8, block_kv=8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"implementation": "gpu"}, "'gpu' is not an implementation of block_sparse_attention"),
        ({"q": Q[:, :9]}, None),
        ({"q": Q[:, :8]}, "2 query blocks of 8 tokens, but 8 tokens make 1"),
        ({"k": Q[:, :8], "v": Q[:, :8]}, "2 key/value blocks of 8 tokens, but 8 tokens make 1"),
        ({"mask": MASK.concat_heads([MASK] * 3)}, r"\(1, 3\), but q has \(1, 2\)"),
        ({"k": Q.astype(jnp.bfloat16)}, "cast them to one dtype"),
    ],
)
def test_arguments_are_checked(arguments, message):
    arguments = {"q": Q, "k": Q, "v": Q, "mask": MASK} | arguments
    if message is None:
        assert block_sparse_attention(**arguments)[0].shape == (1, 9, 2, 4)
        return
    with pytest.raises(ValueError, match=message):
        block_sparse_attention(**arguments)


@hypothesis.settings(max_examples=10)
@hypothesis.given(st.integers(0, 2**32 - 1))
def test_rows_are_means_of_values_and_heads_are_independent(seed):
    # One shape, so that all examples share one program.
    case = Case("property", kv_ragged=True)
    rng = np.random.default_rng(seed)
    keep = rng.random((1, 2, 4, 5)) < rng.random()
    lengths = rng.integers(0, 9, (1, 2, 5), np.int32)
    mask = BlockMask.from_dense(keep, block_q=8, block_kv=8, kv_lengths=lengths, capacity=5)
    q, k, v, *_ = case.arrays(jnp.float32)
    q, k = (jnp.asarray(x * rng.exponential()) for x in (q, k))
    attend = jax.jit(block_sparse_attention)
    out, lse = attend(q, k, v, mask)
    low = np.minimum(np.asarray(v).min(1, keepdims=True), 0) - 1e-5
    high = np.maximum(np.asarray(v).max(1, keepdims=True), 0) + 1e-5
    assert (low <= out).all()
    assert (out <= high).all()
    other, other_lse = attend(q.at[:, :, 1].mul(2.0), k, v, mask)
    np.testing.assert_array_equal(other[:, :, 0], out[:, :, 0])
    np.testing.assert_array_equal(other_lse[:, 0], lse[:, 0])
