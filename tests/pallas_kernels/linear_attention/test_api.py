import numpy as np
import pytest

from pallas_kernels import linear_attention
from tests.conformance.linear_op_suite import BLOCKS, make


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(pairs=np.ones((1, 1, 3, 4), bool)), r"pairs is bool \(1, 1, 3, 4\)"),
        (dict(pairs=np.ones((5, 1, 3, 5), bool)), "pairs is for"),
        (dict(kv_lengths=np.full((1, 1, 5), 9, np.int32)), "must stay within 0..8"),
        (dict(kv_lengths=np.full((4, 1, 5), 8, np.int32)), "kv_lengths is for"),
        (dict(feature_map="exp"), "must be one of softmax, elu, relu"),
        (dict(eps=-1.0), "must be a number of at least 0"),
        (dict(block_q=0), "block_q=0 must be a whole number"),
        (dict(implementation="cuda"), "is not an implementation of linear_attention"),
    ],
)
def test_refusals(change, message):
    q, k, v, _, _ = make()
    with pytest.raises(ValueError, match=message):
        linear_attention(q, k, v, **BLOCKS | change)
